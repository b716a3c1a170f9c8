"""`slotid inspect`: what is in a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SlotIDError
from .common import PICTURES, add_face_options, add_force_option, add_part_options, check_outputs, progress

if TYPE_CHECKING:
    from ..checkpoint import Header

SUMMARY = "say what is in a file"
DESCRIPTION = """\
Say what a file is and what it fits: an identity, a Slot-ID model, a Wan diffusion model, a Wan VAE, or a video.

A video or photo is examined as a reference: which frames could be used and why others not, what poses and expressions
it shows, and what would have to be guessed. Of an identity file the same is told of the clip that it was read from.

Goes by what is in the file, never by its name. Opening is safe: nothing in the file is run."""
EXAMPLES = """\
examples:
  slotid inspect me.identity.safetensors
  slotid inspect wan2.1_t2v_1.3B_bf16.safetensors me.mp4
  slotid inspect me.mp4 --frames 161 --keep 33 --sheet me.png    see which 33 frames cover ten seconds best"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the file to look into")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="also write the sheet of a video or of an identity (.png)"
    )
    add_force_option(parser)
    add_face_options(parser)
    add_part_options(parser)


def run(args: argparse.Namespace) -> None:
    if args.sheet:
        if len(args.files) > 1:
            args.parser.error("--sheet takes one file at a time")
        check_outputs({args.sheet: PICTURES}, force=args.force)
    for path in args.files:
        print("\n".join([f"{path}:", *(f"  {line}" for line in describe(path, args))]))


def describe(path: Path, args: argparse.Namespace) -> Iterator[str]:
    """Lines in plain words about a file.

    Raises:
        SlotIDError: a file that is not there, damaged, or of no kind Slot-ID works with.
    """
    from ..checkpoint import read_header

    if not path.is_file():
        raise SlotIDError(f"there is no file {str(path)!r}", "a file", "check the name and the folder.")
    with path.open("rb") as file:
        start = file.read(9)
    tensors = start[8:] == b"{" or start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"
    if not tensors and path.suffix.lower() != ".safetensors":
        yield from _video(path)
        yield from _reference(path, args)
        return
    header = read_header(path)
    kind = header.metadata.get("format", "")
    if kind == "slot-id-identity":
        yield from _identity(path, args.sheet)
    else:
        yield from _model(path) if kind == "slot-id" else _backbone(path, header)


def _identity(path: Path, sheet: Path | None) -> Iterator[str]:
    from ..identity import Identity
    from ..identity_card import identity_card
    from ..sheets import save_image

    identity = Identity.load(path)
    if sheet:
        save_image(sheet, identity_card(identity, title=path.name))
    tokens, width = identity.tokens.shape
    yield f"An identity: {tokens} tokens of width {width} ({tokens // 2} of appearance, {tokens // 2} of dynamics)."
    yield from identity.report().splitlines()


def _model(path: Path) -> Iterator[str]:
    from ..model import SlotID

    model = SlotID.load(path)
    encoder, conditioning = model.config.encoder, model.config.conditioning
    yield f"A Slot-ID model for {model.config.backbone}."
    yield (
        f"Encoder: {_millions(model.encoder)} parameters, width {encoder.width}, {encoder.depth} blocks, "
        f"{encoder.slots} slots, faces of {encoder.crop_size} pixels."
    )
    yield (
        f"Conditioning: {_millions(model.conditioning)} parameters, inner width {conditioning.inner_width}, after "
        f"{len(model.conditioning.blocks_used)} of {model.config.backbone.depth} blocks."
    )
    yield f"Trained on: {model.metadata.get('trained_on', 'not said')}."
    yield f"License: {model.metadata.get('license', 'not said')}."
    yield f"SHA-256: {model.hash}"


def _backbone(path: Path, header: Header) -> Iterator[str]:
    from ..pipelines.wan import DIT_PREFIX, VARIANTS, describe_tensors, transformer_config, vae_config

    shapes = {name.removeprefix(DIT_PREFIX): shape for name, (_, shape) in header.tensors.items()}
    count = sum(prod(shape) for shape in shapes.values())
    types = ", ".join(sorted({dtype for dtype, _ in header.tensors.values()}))
    if config := transformer_config(shapes):
        variant = next((kind for name, kind in VARIANTS.items() if name in shapes), "Wan")
        width = shapes["patch_embedding.weight"][0]
        yield f"A {variant} diffusion model: {count / 1e6:.1f} million parameters ({types})."
        yield (
            f"Width {width} ({config['num_attention_heads']} heads), {config['num_layers']} blocks, feed-forward "
            f"{config['ffn_dim']}, text width {config['text_dim']}."
        )
        yield f"Latent channels: {config['in_channels']} in, {config['out_channels']} out."
    elif config := vae_config(shapes):
        yield f"A VAE in the Wan 2.1 layout: {count / 1e6:.1f} million parameters ({types})."
        yield f"Base width {config['base_dim']}, {config['z_dim']} latent channels, {config['out_channels']} colours."
    else:
        raise SlotIDError(
            f"{path.name!r} holds {describe_tensors(shapes)}",
            "an identity, a Slot-ID model, a Wan diffusion model or a Wan VAE",
            "choose another file.",
        )


def _video(path: Path) -> Iterator[str]:
    from ..video.decoding import Decoder

    with path.open("rb") as file:
        decoder = Decoder(file, path.name, Fraction(0), 8192)
        shape = None
        for frame in decoder:
            shape = frame.picture()[1].shape if shape is None else shape
        decoder.check_complete(Fraction(0))
    seconds = float(decoder.end)
    yield f"A video of {shape[1]} x {shape[0]} pixels: {decoder.count} frames in {seconds:.2f} s."
    usable = max(0, (int(seconds * 16) - 1) // 4) * 4 + 1
    yield f"As a reference clip at 16 frames per second: up to {usable} frames."


def _reference(path: Path, args: argparse.Namespace) -> Iterator[str]:
    from ..faces import prepare_faces
    from ..sheets import contact_sheet, save_image
    from ..video import load_video

    part = {"frames": args.frames, "fps": args.fps, "start": args.start, "duration": args.duration}
    try:
        with progress("Reading the clip") as report:
            clip = load_video(path, **part, progress=report)
        with progress("Finding the face") as report:
            faces = prepare_faces(clip, detector=args.detector, person=args.person, frames=args.keep, progress=report)
    except SlotIDError as error:
        # What the file is has been said already; a sheet that was asked for cannot be left out silently.
        if args.sheet:
            raise
        yield f"As a reference it cannot be used: {error.found}."
        yield f"What to do: {error.remedy}"
        return
    yield from faces.coverage.report().splitlines()
    if args.sheet:
        save_image(args.sheet, contact_sheet(faces))
        yield f"Wrote {args.sheet}."


def _millions(module: object) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} million"
