"""`slotid demo`: the whole way on the packaged models."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import add_device_option, add_force_option, check_outputs, chosen_device, presentable, progress, untrained
from .encode import read_identity, write_sheet
from .generate import DEMO_SETTINGS, write_frames

SUMMARY = "go the whole way on the packaged demo models"
DESCRIPTION = """\
Read the identity from a packaged sample clip and generate a video with it, with nothing to download.

The demo world is a small drawn world with known people in it: it shows how the parts work together, not what they do
for real people. Four files are written: reference.png (what was read), identity.safetensors, video.mp4, frames.png."""
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
    names = ("reference.png", "identity.safetensors", "video.mp4", "frames.png")
    reference, identity_file, video, sheet = (args.output / name for name in names)
    args.output.mkdir(parents=True, exist_ok=True)
    check_outputs({path: (path.suffix,) for path in (reference, identity_file, video, sheet)}, force=args.force)

    from ..demo.files import demo_files
    from ..demo.prompts import embed_empty, embed_prompt
    from ..faces import prepare_faces
    from ..model import SlotID
    from ..pipelines.wan import generate, load_wan_transformer, load_wan_vae
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

    identity = read_identity(slotid, faces, vae, device)
    identity.save(identity_file)
    print(f"Read the identity: {len(identity.tokens)} tokens. Wrote {identity_file}.")

    transformer = load_wan_transformer(files.diffusion_model, device=device)
    with slotid.condition(transformer, identity), progress("Sampling") as report:
        frames = generate(
            transformer, vae, embed_prompt(*PROMPT), embed_empty(), **DEMO_SETTINGS, seed=args.seed, progress=report
        )
    save_video(video, presentable(frames, words), 16)
    write_frames(sheet, frames, words)
    print(f"Generated {len(frames)} frames of {', '.join(PROMPT)}. Wrote {video} and {sheet}.")
    if words:
        print(f"These are {words}: they show how the parts work together, not likeness.")
