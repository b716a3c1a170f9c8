"""`slotid encode`: a clip to an identity file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    PICTURES,
    add_device_option,
    add_face_options,
    add_force_option,
    add_part_options,
    check_outputs,
    chosen_device,
    progress,
    size_of,
    untrained,
)

if TYPE_CHECKING:
    import torch

    from ..faces import Faces
    from ..identity import Identity
    from ..model import SlotID
    from ..slots import RoutingTrace

SUMMARY = "read the identity of a person from a clip"
DESCRIPTION = """\
Read the identity of one person from a short clip, and write it as a small file.

Best is a clip of two seconds or more in which the head turns both ways and the face smiles: what is seen here is what
can be kept. The identity file belongs to the Slot-ID model that made it, and needs neither the clip nor this command
again. Make identities only of people who agreed; --consent keeps a note of that in the file."""
EXAMPLES = """\
examples:
  slotid encode me.mp4                                     packaged demo models, me.identity.safetensors beside the clip
  slotid encode me.mp4 --model slotid-wan2.1-1.3b.safetensors --vae wan_2.1_vae.safetensors -o me.safetensors
  slotid encode party.mov --start 12.5 --person leftmost --sheet party.png     and look at who was read
  slotid encode long.mp4 --frames 161 --keep 33            the 33 of ten seconds' frames that show most
  slotid encode crops.mp4 --detector whole_frame           the clip shows nothing but the face already"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", type=Path, metavar="CLIP", help="a video; a photo works, with less likeness")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the identity file (default: beside CLIP, .identity.safetensors)",
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also write a contact sheet of what was read (.png)")
    parser.add_argument("--routing", type=Path, metavar="FILE", help="also draw what each slot looked at (.png)")
    parser.add_argument("--consent", default="", metavar="TEXT", help="a note kept in the file: who agreed to what")
    add_force_option(parser)

    models = parser.add_argument_group("models")
    models.add_argument("--model", type=Path, metavar="FILE", help="the Slot-ID model (default: the demo model)")
    models.add_argument(
        "--vae", type=Path, metavar="FILE", help="the video model's VAE, as ComfyUI takes it (default: the demo VAE)"
    )
    add_device_option(models)

    add_face_options(parser)
    add_part_options(parser)


def run(args: argparse.Namespace) -> None:
    output = args.output or args.clip.with_suffix(".identity.safetensors")
    pictures = {path: PICTURES for path in (args.sheet, args.routing) if path}
    check_outputs({output: (".safetensors",)} | pictures, force=args.force)

    from ..demo.files import demo_files
    from ..faces import prepare_faces
    from ..model import SlotID
    from ..pipelines.wan import load_wan_vae
    from ..video import load_video

    device = chosen_device(args.device)
    model = SlotID.load(args.model or demo_files().slot_id)
    vae = load_wan_vae(args.vae or demo_files().vae, device=device)
    with progress("Reading the clip") as report:
        clip = load_video(
            args.clip, frames=args.frames, fps=args.fps, start=args.start, duration=args.duration, progress=report
        )
    with progress("Finding the face") as report:
        faces = prepare_faces(clip, detector=args.detector, person=args.person, frames=args.keep, progress=report)
    print(faces.coverage.report())
    words = untrained(model.metadata)
    identity, trace = read_identity(model, faces, vae, device, consent=args.consent)
    if args.sheet:
        write_sheet(args.sheet, faces, words)
        print(f"Wrote {args.sheet}: look whether it shows the right person.")
    if args.routing:
        write_routing(args.routing, faces, trace, words)
        print(f"Wrote {args.routing}: what each slot looked at.")
    identity.save(output)
    print(f"Wrote {output}: {len(identity.tokens)} identity tokens, {size_of(output)}.")
    if words:
        print("Made with untrained demo weights: it shows how the parts work together, not likeness.")


def read_identity(
    model: SlotID, faces: Faces, vae: object, device: torch.device, *, consent: str = ""
) -> tuple[Identity, RoutingTrace]:
    from ..pipelines.wan import encode_video

    identity, trace = model.to(device).encode_with_routing(faces, encode_video(vae), consent=consent)
    return identity.with_routing(trace), trace


def write_sheet(path: Path, faces: Faces, words: str) -> None:
    from ..sheets import contact_sheet, save_image

    save_image(path, contact_sheet(faces, title=words or None))


def write_routing(path: Path, faces: Faces, trace: RoutingTrace, words: str) -> None:
    from ..routing_sheet import routing_sheet
    from ..sheets import save_image

    save_image(path, routing_sheet(faces, trace, title=words or None))
