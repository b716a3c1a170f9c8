"""What an identity adds to one sampling step, beside what the in-context methods pay.

    python -m benchmarks.bench_overhead [--models 1.3B 14B] [--blocks 4] [--seconds 6]

On diffusers' Wan transformer with random weights: one conditional call without and with Slot-ID, and with the latents
of a reference appended as further tokens to every self-attention, as in-context methods do: of one image (1 latent
frame beside the video's 21), of a clip of face crops (4, as many tokens as 21 frames of 256 x 256 have) and of a whole
clip (21). Operations are counted at 81 frames of 480p and full depth. Times are taken on a GPU at the same size; on a
CPU of one block at fewer tokens, with references that are as large a part of them.

Last, the encoding of an 81-frame clip beside one step: counted; on a GPU timed; on a CPU timed for a few small frames,
from which its share of a step is put together by the operations a second that each reaches.
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
AS_TIMED = "operations, as timed"
# Tokens that a CPU bears, in latent frames, height and width: the trend towards 32,760. The references are timed at
# those in REFERENCES alone.
CPU_LATENTS = {"1.3B": ((1, 30, 52), (1, 60, 104), (7, 60, 104)), "14B": ((1, 30, 52), (1, 60, 104))}
REFERENCES = {"1.3B": ((1, 30, 52), (1, 60, 104)), "14B": ((1, 30, 52),)}
# What a CPU encodes: frames and their side.
CPU_FRAMES, CPU_CROP = 5, 128


def with_reference(latent: tuple[int, int, int], frames: int) -> tuple[int, int, int]:
    """The size of latents with more tokens by `frames` of 21: by whole frames, or else by whole rows of tokens."""
    T, H, W = latent
    if T * frames % LATENT[0] == 0:
        return T + T * frames // LATENT[0], H, W
    return T, H + 2 * round(H * frames / LATENT[0] / 2), W


def runs_of(size: Size, blocks: int, latent: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> dict:
    """By mode, a function that makes one call."""
    model = wan_shapes.transformer(size, blocks, device, dtype)
    slotid = wan_shapes.slotid(size, blocks, device, dtype)
    tokens = torch.randn(2 * slotid.config.encoder.slots, slotid.config.identity_width, device=device, dtype=dtype)

    def run(mode: str) -> Any:
        arguments = wan_shapes.call(model, with_reference(latent, MODES[mode]), device, dtype)

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
    flops["encode a clip"] = operations(encoding(size, device, dtype))
    added = sum(p.numel() for p in wan_shapes.slotid(size, size.depth, device, dtype).parameters())
    rows = []
    for mode, count in flops.items():
        row = {"model": name, "blocks": size.depth, "tokens": tokens_of(LATENT), "mode": mode, "kind": "operations"}
        row |= {"value": round(count / 1e12, 4), "unit": "TFLOP", "of_off": round(count / flops["off"], 5)}
        rows.append(row | {"added_parameters": round(added / size.parameters, 5) if mode == "slot-id" else ""})
    return rows


def encoding(size: Size, device: torch.device, dtype: torch.dtype, frames: int = FRAMES, crop: int = CROP) -> Any:
    """A function that encodes a clip of face crops: the VAE at its published width, then Slot-ID's encoder."""
    vae = wan_shapes.vae(device, dtype)
    # The encoder asks for its device's autocast, and there is none without data: its small part is counted on the CPU.
    counted = device.type == "meta"
    slotid = wan_shapes.slotid(size, 1, *((torch.device("cpu"), torch.float32) if counted else (device, dtype)))
    crops: Tensor = torch.randn(1, 3, frames, crop, crop, device=device, dtype=dtype)

    def run() -> None:
        with torch.no_grad():
            wan_shapes.encode(slotid, vae, crops)

    return run


def timed(
    name: str, blocks: int, latent: tuple[int, int, int], device: torch.device, dtype: torch.dtype, seconds: float
) -> list[dict]:
    """Rows of one call with `blocks` blocks, and what Slot-ID adds to its operations."""
    runs = runs_of(SIZES[name], blocks, latent, device, dtype)
    # The two that differ by a percent or less take many turns of their own.
    times = common.milliseconds({mode: runs[mode] for mode in ("off", "slot-id")}, device, seconds, least=3)
    if device.type == "cuda" or latent in REFERENCES[name]:
        references = {mode: run for mode, run in runs.items() if mode != "slot-id"}
        beside = common.milliseconds(references, device, seconds / 4, least=3)
        times |= {mode: time * times["off"] / beside["off"] for mode, time in beside.items() if mode != "off"}
    rows = []
    for mode, time in times.items():
        row = {"model": name, "blocks": blocks, "tokens": tokens_of(latent), "mode": mode, "kind": "time"}
        row |= {"value": round(time, 2), "unit": "ms", "of_off": round(time / times["off"], 4), "added_parameters": ""}
        rows.append(row)
    runs = runs_of(SIZES[name], blocks, latent, torch.device("meta"), dtype)
    off, on = (operations(runs[mode]) for mode in ("off", "slot-id"))
    row = {"model": name, "blocks": blocks, "tokens": tokens_of(latent), "mode": "slot-id", "kind": AS_TIMED}
    row |= {"value": round(on / 1e12, 4), "unit": "TFLOP", "of_off": round(on / off, 5), "added_parameters": ""}
    return [*rows, row]


def timed_encoding(
    name: str, counts: dict[str, float], step: tuple[float, float], device: torch.device, dtype: torch.dtype
) -> dict:
    """A row: the encoding of an 81-frame clip beside one step of the whole model.

    Args:
        counts: operations [TFLOP] of the step ("off") and of the encoding.
        step: what was timed of the step: operations [TFLOP] and time [ms].
    """
    sizes = (FRAMES, CROP) if device.type == "cuda" else (CPU_FRAMES, CPU_CROP)
    run = encoding(SIZES[name], device, dtype, *sizes)
    time = common.milliseconds({"encode": run}, device, 1.0, least=3)["encode"]
    counted = operations(encoding(SIZES[name], torch.device("meta"), dtype, *sizes)) / 1e12
    whole_clip, whole_step = time * counts["encode a clip"] / counted, step[1] * counts["off"] / step[0]
    row = {"model": name, "blocks": SIZES[name].depth, "tokens": tokens_of(LATENT), "mode": "encode a clip"}
    row |= {"kind": "time" if device.type == "cuda" else "time by rates", "value": round(whole_clip, 2), "unit": "ms"}
    return row | {"of_off": round(whole_clip / whole_step, 4), "added_parameters": ""}


def verdicts(rows: list[dict]) -> list[str]:
    """The bars, each held or missed; of times, those taken at the largest number of tokens of each model."""
    most: dict[tuple[str, str], int] = {}
    for row in rows:
        of = row["model"], row["kind"]
        most[of] = max(most.get(of, 0), int(row["tokens"]))
    lines = []
    for row in rows:
        limit = {"slot-id": BARS[row["model"]], "encode a clip": 1.0}.get(row["mode"])
        if limit and row["kind"] != AS_TIMED and int(row["tokens"]) == most[row["model"], row["kind"]]:
            what = f"{row['model']}, {row['mode']}, {row['kind']}, {row['tokens']} tokens, {row['blocks']} blocks"
            lines.append(common.verdict(f"{what}: of the step", float(row["of_off"]), "<=", limit))
    return lines


def measure(name: str, blocks: int, device: torch.device, dtype: torch.dtype, seconds: float) -> list[dict]:
    """All rows of one model; `blocks` are timed."""
    size, on_gpu = SIZES[name], device.type == "cuda"
    rows = counted(name)
    counts = {row["mode"]: row["value"] for row in rows}
    for latent in (LATENT,) if on_gpu else CPU_LATENTS[name]:
        rows += timed(name, blocks, latent, device, dtype, seconds)
        off = next(row["value"] for row in reversed(rows) if row["mode"] == "off")
    meta = torch.device("meta")
    step = operations(runs_of(size, blocks, latent, meta, dtype)["off"]) / 1e12, off
    return [*rows, timed_encoding(name, counts, step, device, dtype)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--blocks", type=int, default=0, help="blocks that are timed (all on a GPU, 1 on a CPU)")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each row")
    arguments = parser.parse_args()
    device = common.device_to_measure()
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    rows = []
    for name in arguments.models:
        blocks = arguments.blocks or (SIZES[name].depth if on_gpu else 1)
        rows += measure(name, blocks, device, dtype, arguments.seconds)
    for row in rows:
        print(*(f"{row[key]!s:>9}" for key in ("model", "blocks", "tokens", "value", "unit", "of_off")), row["mode"])
    path = common.write("overhead", rows, device)
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["mode"] in MODES and row["mode"] != "off" and row["kind"] != AS_TIMED:
            group = groups.setdefault(f"{row['model']}, {row['kind']}\n{row['tokens']} tokens", {})
            group[row["mode"]] = 100 * (row["of_off"] - 1)
    common.bars(path, "What a reference adds to one sampling step", groups, "% of the step without")
    print(*verdicts(rows), sep="\n")


if __name__ == "__main__":
    main()
