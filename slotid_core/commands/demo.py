"""`slotid demo`: the whole way on the packaged models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .common import add_device_option, add_force_option, check_outputs, chosen_device, presentable, progress, untrained
from .encode import read_identity, write_routing, write_sheet
from .generate import DEMO_SETTINGS

if TYPE_CHECKING:
    import torch

SUMMARY = "go the whole way on the packaged demo models"
DESCRIPTION = """\
Read the identity from a packaged sample clip and generate a video with it, with nothing to download.

The demo world is a small drawn world with known people in it: it shows how the parts work together, not what they do
for real people. Five files are written: reference.png (what was read), identity.safetensors, routing.png (what each
slot looked at), video.mp4, and frames.png (the reference, the video, and the same video without the identity)."""
EXAMPLES = """\
examples:
  slotid demo
  slotid demo --output somewhere --seed 7"""

PROMPT = ("front", "smile", "blue")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("slotid_demo"), metavar="FOLDER", help="(default: ./slotid_demo)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    add_force_option(parser)
    add_device_option(parser)


def run(args: argparse.Namespace) -> None:
    names = ("reference.png", "identity.safetensors", "routing.png", "video.mp4", "frames.png")
    outputs = [args.output / name for name in names]
    reference, identity_file, routing, video_file, sheet = outputs
    args.output.mkdir(parents=True, exist_ok=True)
    check_outputs({path: (path.suffix,) for path in outputs}, force=args.force)

    from ..demo.files import demo_files
    from ..demo.prompts import embed_empty, embed_prompt
    from ..faces import prepare_faces
    from ..model import SlotID
    from ..pipelines.wan import generate, load_wan_transformer, load_wan_vae
    from ..sheets import rows_sheet, save_image
    from ..video import load_video, save_video

    device, files = chosen_device(args.device), demo_files()
    slotid = SlotID.load(files.slot_id)
    vae = load_wan_vae(files.vae, device=device)
    words = untrained(slotid.metadata)

    clip = load_video(files.clips[0])
    # The sample clips show nothing but the head.
    faces = prepare_faces(clip, detector="whole_frame")
    write_sheet(reference, faces, words)
    print(f"Read {clip.source}: {len(clip.frames)} frames. Wrote {reference}.")

    identity, trace = read_identity(slotid, faces, vae, device)
    identity.save(identity_file)
    write_routing(routing, faces, trace, words)
    print(f"Read the identity: {len(identity.tokens)} tokens. Wrote {identity_file} and {routing}.")

    transformer = load_wan_transformer(files.diffusion_model, device=device)

    def video() -> torch.Tensor:
        settings = {**DEMO_SETTINGS, "seed": args.seed}
        with progress("Sampling") as report:
            return generate(transformer, vae, embed_prompt(*PROMPT), embed_empty(), **settings, progress=report)

    with slotid.condition(transformer, identity):
        frames = video()
    save_video(video_file, presentable(frames, words), 16)
    print(f"Generated {len(frames)} frames of {', '.join(PROMPT)}. Wrote {video_file}.")
    rows = [("reference clip", faces.crops), ("with the identity", frames), ("the same without it", video())]
    save_image(sheet, rows_sheet(rows, title=words or None))
    print(f"Wrote {sheet}: the reference, the video, and the same video without the identity.")
    if words:
        print(f"These are {words}: they show how the parts work together, not likeness.")
