"""`slotid inspect`: what is in a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SlotIDError

if TYPE_CHECKING:
    from ..checkpoint import Header

SUMMARY = "say what is in a file"
DESCRIPTION = """\
Say what a file is and what it fits: an identity, a Slot-ID model, a Wan diffusion model, a Wan VAE, or a video.

Goes by what is in the file, never by its name. Opening is safe: nothing in the file is run."""
EXAMPLES = """\
examples:
  slotid inspect me.identity.safetensors
  slotid inspect wan2.1_t2v_1.3B_bf16.safetensors me.mp4"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the file to look into")


def run(args: argparse.Namespace) -> None:
    for path in args.files:
        print("\n".join([f"{path}:", *(f"  {line}" for line in describe(path))]))


def describe(path: Path) -> Iterator[str]:
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
        return
    header = read_header(path)
    kind = {"slot-id": _model, "slot-id-identity": _identity}.get(header.metadata.get("format", ""))
    yield from kind(path) if kind else _backbone(path, header)


def _identity(path: Path) -> Iterator[str]:
    from ..identity import Identity

    identity = Identity.load(path)
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


def _millions(module: object) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} million"
