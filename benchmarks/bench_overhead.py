"""What an identity adds to one sampling step, beside what the in-context methods pay.

    python -m benchmarks.bench_overhead [--models 1.3B 14B] [--blocks 4] [--seconds 20]

On diffusers' Wan transformer with random weights: one conditional call without and with Slot-ID, and with the latents
of a reference appended as further tokens to every self-attention, as in-context methods do: of one image (1 latent
frame), of a clip of face crops (4, as many tokens as 21 frames of 256 x 256 have) and of a whole clip (21). Operations
are counted at 81 frames of 480p and full depth; times are taken with as many blocks and tokens as the machine bears.
Last, the encoding of an 81-frame clip beside one step.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from . import common, wan_shapes
from .wan_shapes import CROP, FRAMES, LATENT, SIZES, Size, tokens_of

MODES = {"off": 0, "slot-id": 0, "in-context, an image": 1, "in-context, face crops": 4, "in-context, a clip": 21}
BARS = {"1.3B": 1.02, "14B": 1.01}
# Tokens that a CPU bears, in latent frames, height and width: the trend towards 32,760.
CPU_LATENTS = {"1.3B": ((1, 30, 52), (1, 60, 104), (3, 60, 104)), "14B": ((1, 30, 52), (1, 60, 104))}


def runs_of(size: Size, blocks: int, latent: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> dict:
    """By mode, a function that makes one call."""
    model = wan_shapes.transformer(size, blocks, device, dtype)
    slotid = wan_shapes.slotid(size, blocks, device, dtype)
    tokens = torch.randn(2 * slotid.config.encoder.slots, slotid.config.identity_width, device=device, dtype=dtype)
    frames, height, width = latent

    def run(mode: str) -> Any:
        longer = (frames + MODES[mode], height, width)
        arguments = wan_shapes.call(model, longer, device, dtype)

        def once() -> None:
            with torch.no_grad():
                model(**arguments)

        def with_identity() -> None:
            with torch.no_grad(), wan_shapes.conditioned(model, slotid.conditioning, tokens):
                model(**arguments)

        return with_identity if mode == "slot-id" else once

    return {mode: run(mode) for mode in MODES}


def operations(run: Any) -> float:
    """Floating-point operations of a run on tensors that hold nothing."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def counted(name: str) -> list[dict]:
    """Rows of a whole model at 81 frames of 480p, counted; the last is the encoding of a clip."""
    size, device, dtype = SIZES[name], torch.device("meta"), torch.bfloat16
    flops = {mode: operations(run) for mode, run in runs_of(size, size.depth, LATENT, device, dtype).items()}
    flops["encode a clip"] = operations(encoding(size, device, dtype, FRAMES))
    added = sum(p.numel() for p in wan_shapes.slotid(size, size.depth, device, dtype).parameters())
    rows = []
    for mode, count in flops.items():
        row = {"model": name, "blocks": size.depth, "tokens": tokens_of(LATENT), "mode": mode, "kind": "operations"}
        row |= {"value": round(count / 1e12, 4), "unit": "TFLOP", "of_off": round(count / flops["off"], 5)}
        rows.append(row | {"added_parameters": round(added / size.parameters, 5) if mode == "slot-id" else ""})
    return rows


def encoding(size: Size, device: torch.device, dtype: torch.dtype, frames: int) -> Any:
    """A function that encodes a clip of face crops: the VAE at its published width, then Slot-ID's encoder."""
    slotid, vae = wan_shapes.slotid(size, 1, device, dtype), wan_shapes.vae(device, dtype)
    crops: Tensor = torch.randn(1, 3, frames, CROP, CROP, device=device, dtype=dtype)

    def run() -> None:
        with torch.no_grad():
            wan_shapes.encode(slotid, vae, crops)

    return run


def timed(
    name: str, blocks: int, latent: tuple[int, int, int], device: torch.device, dtype: torch.dtype, seconds: float
) -> list[dict]:
    """Rows of one call with `blocks` blocks."""
    runs = runs_of(SIZES[name], blocks, latent, device, dtype)
    if device.type != "cuda":
        del runs["in-context, a clip"]
    times = common.milliseconds(runs, device, seconds, least=7)
    rows = []
    for mode, time in times.items():
        row = {"model": name, "blocks": blocks, "tokens": tokens_of(latent), "mode": mode, "kind": "time"}
        row |= {"value": round(time, 2), "unit": "ms", "of_off": round(time / times["off"], 4), "added_parameters": ""}
        rows.append(row)
    return rows


def timed_encoding(name: str, step: float, device: torch.device, dtype: torch.dtype, seconds: float) -> dict:
    """A row: the encoding of an 81-frame clip beside one step of the whole model (ms)."""
    times = common.milliseconds({"encode": encoding(SIZES[name], device, dtype, FRAMES)}, device, seconds, least=3)
    row = {"model": name, "blocks": SIZES[name].depth, "tokens": tokens_of(LATENT), "mode": "encode a clip"}
    row |= {"kind": "time", "value": round(times["encode"], 2), "unit": "ms"}
    return row | {"of_off": round(times["encode"] / step, 4), "added_parameters": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--blocks", type=int, default=0, help="blocks that are timed (all on a GPU, 1 on a CPU)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row")
    arguments = parser.parse_args()
    device = common.device_to_measure()
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    rows = []
    for name in arguments.models:
        rows += counted(name)
        blocks = arguments.blocks or (SIZES[name].depth if on_gpu else 1)
        for latent in (LATENT,) if on_gpu else CPU_LATENTS[name]:
            rows += timed(name, blocks, latent, device, dtype, arguments.seconds)
        if on_gpu:
            off = next(r["value"] for r in rows if (r["model"], r["mode"], r["kind"]) == (name, "off", "time"))
            step = off * SIZES[name].depth / blocks
            rows.append(timed_encoding(name, step, device, dtype, arguments.seconds))
    for row in rows:
        print(*(f"{row[key]!s:>9}" for key in ("model", "blocks", "tokens", "value", "unit", "of_off")), row["mode"])
    path = common.write("overhead", rows, device)
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        group = groups.setdefault(f"{row['model']}, {row['kind']}\n{row['tokens']} tokens", {})
        group[row["mode"]] = row["of_off"]
    common.bars(path, "One sampling step", groups, "of the step without", line=1.0)
    if on_gpu:
        for row in rows:
            if (row["mode"], row["kind"]) == ("slot-id", "time"):
                limit = BARS[row["model"]]
                print("held  " if row["of_off"] <= limit else "MISSED", row["model"], row["of_off"], "<=", limit)


if __name__ == "__main__":
    main()
