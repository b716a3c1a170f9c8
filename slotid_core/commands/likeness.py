"""`slotid likeness`: how much a video shows the person of a reference."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .common import PICTURES, add_force_option, check_outputs, progress

SUMMARY = "measure how much a video shows the person of a reference"
DESCRIPTION = """\
Compare the largest face of a video's frames with the faces of a reference: a clip or a photo.

Said are the likeness to one reference frame (the published figure), to the nearest of several (which does not fall just
because somebody smiles), how much the face moves beside them, and the frames without a face. Meters:

  dlib         free for any use, nothing to download (default)
  facesim_arc  ConsisID's and OpenS2V-Eval's FaceSim-Arc; needs insightface and its non-commercial pack buffalo_l
  facesim_cur  their FaceSim-Cur; needs that too, and CurricularFace's weights as an ONNX file

Figures of different meters, and of different papers, cannot be compared."""
EXAMPLES = """\
examples:
  slotid likeness made.mp4 --reference me.mp4
  slotid likeness made.mp4 --reference me.mp4 --curve made.png --json made.json
  slotid likeness made.mp4 --reference me.jpg --meter facesim_arc --samples 32     OpenS2V-Eval's protocol"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", type=Path, metavar="VIDEO", help="the video to measure")
    parser.add_argument("--reference", type=Path, required=True, metavar="FILE", help="a clip or photo of the person")
    parser.add_argument(
        "--meter", choices=("dlib", "facesim_arc", "facesim_cur"), default="dlib", help="who measures (default: dlib)"
    )
    parser.add_argument(
        "--samples", type=int, default=16, metavar="N", help="evenly spaced frames of each to look at (default: 16)"
    )
    parser.add_argument("--curricularface", type=Path, metavar="FILE", help="for facesim_cur: the network as ONNX")
    parser.add_argument(
        "--insightface", type=Path, metavar="FOLDER", help="where insightface's packs are (default: ~/.insightface)"
    )
    parser.add_argument("--curve", type=Path, metavar="FILE", help="also draw the likeness over time (.png)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures; - prints them instead")
    add_force_option(parser)


def run(args: argparse.Namespace) -> None:
    printed = args.json == Path("-")
    outputs = {path: endings for path, endings in ((args.curve, PICTURES), (args.json, (".json",))) if path}
    check_outputs({path: endings for path, endings in outputs.items() if path != Path("-")}, force=args.force)

    from ..atomic import write_atomic
    from ..likeness import likeness_plot, make_meter, measure_likeness, sampled_file
    from ..sheets import save_image

    folders = [args.insightface] if args.insightface else []
    meter = make_meter(args.meter, model_folders=folders, curricularface=args.curricularface)
    video, reference = (sampled_file(path, args.samples) for path in (args.video, args.reference))
    with progress("Comparing faces") as report:
        measured = measure_likeness(video, reference, meter, progress=report)
    text = json.dumps(measured.to_dict(), indent=2)
    print(text if printed else measured.report())
    if args.curve:
        save_image(args.curve, likeness_plot(measured))
        print(f"Wrote {args.curve}: the likeness over time.", file=sys.stderr if printed else sys.stdout)
    if args.json and not printed:
        write_atomic(args.json, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
        print(f"Wrote {args.json}.")
