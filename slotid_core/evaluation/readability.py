"""What the VAE keeps: how well a probe reads each parameter from latents, and how near its pictures come.

A video model can carry no more of a person than the latents hold. The probe here is trained on latents of training
people's reference clips and asked about held-out people. How lopsided everybody's smile is it would learn by heart, as
it hardly shows and all else in a clip tells who it is. So each time it meets somebody, the smile is lopsided in another
way: of the latents of two clips, with the smile far to either side, it is shown a mix.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..atomic import write_atomic
from ..checkpoint import file_sha256
from ..demo.clips import recorded, reference_clips, reference_tracks, target_clips
from ..demo.fitting import Plan, fit
from ..demo.people import DYNAMIC, MARKS, TEST, TRAIN, People, people
from ..demo.prompts import Prompt
from ..demo.renderer import PER_FRAME, Tracks
from ..demo.seeds import stream
from ..demo.store import load_vae
from ..demo.wan_vae import WanVAE
from ..sheets import rows_sheet, save_image
from ..training.data import encoder_sha256
from .blinks import blink_rates
from .design import REFERENCE_TAKE
from .latent_probe import POSE, TIME, LatentProbe
from .metrics import circular_r_squared, hue_hit, plain, r_squared
from .renders import cached, per_frame, words_of
from .results import READABILITY
from .sampling import decode_clips, encode_clips
from .targets import BOB_VISIBLE, HUES, KINDS, NUMERIC, TRACK_SCALES, Targets, mixed, standardised, targets_of

# As many as the models are trained on: of 3,072 people the probe learned half of the parameters by heart, not to read.
PEOPLE, HELD_OUT, PART = 20480, 256, 128
STEPS, BATCH = 6000, 32
# How lopsided, to either side, the two smiles are that are mixed, of the furthest that anybody's is. The mouth of a mix
# tilts as the mixed numbers say, to a sixth of the furthest.
LOPSIDED = 0.7
RATE = 2e-3
# Keeps the probe from learning people by heart; more would hide what shows faintly.
NOISE = 0.01
# What an error in where the head is counts: the more, the further it moves the face on a picture.
POSE_WEIGHTS = {"yaw": 25.0, "pitch": 4.0, "x": 1.5, "y": 2.5}
# What an error in the face's moves counts, once the face was read.
MOVES_WEIGHT = 4.0
SIZES = (64, 128)
PSNR_PEOPLE = 16
WORST = 6


def write_readability(vae_file: Path, results: Path, pictures: Path, work: Path) -> Path:
    """Measure the VAE and write readability.json beside the results, and its pictures; returns the file.

    Args:
        work: see `readability`.
    """
    found = readability(vae_file, work, STEPS, PEOPLE)
    vae = load_vae(vae_file)
    made = {size: fidelity(vae, size) for size in SIZES}
    pictures.mkdir(parents=True, exist_ok=True)
    names = {size: f"evaluation_vae_{size}.png" for size in SIZES}
    for size, one in made.items():
        save_image(pictures / names[size], one.picture)
    data = {
        "says": f"A probe trained on the latents of {PEOPLE} training people's reference clips, the smile lopsided in "
        f"another way each time ({STEPS} steps of {BATCH}), asked about {HELD_OUT} held-out people; PSNR on "
        f"{PSNR_PEOPLE} held-out people.",
        "vae": file_sha256(vae_file),
        "latents": {name: round(value, 4) for name, value in found.items()},
        "psnr": {str(size): {kind: round(value, 2) for kind, value in one.psnr.items()} for size, one in made.items()},
        "pictures": list(names.values()),
    }
    path = results / f"{READABILITY}.json"
    results.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8"))
    return path


def readability(vae_file: Path, work: Path, steps: int, people_known: int) -> dict[str, float]:
    """R^2 of each parameter (circular for hues), accuracy of the marks' kinds and hues, on held-out people.

    Args:
        vae_file: a VAE in Wan's layout.
        work: folder for latents and the probe's checkpoint, by the encoder's hash; an interrupted run goes on.
        steps: of the latent probe's training.
        people_known: training people it learns from, a multiple of 128.
    """
    vae = load_vae(vae_file)
    folder = work / encoder_sha256(vae_file)[:12]

    def both_smiles(start: int, count: int) -> dict[str, Tensor]:
        return {"latents": _both_smiles(vae, list(TRAIN[start : start + count]))}

    known = cached("both smiles", both_smiles, people_known, folder, PART)["latents"]
    asked_seeds = list(TEST[-HELD_OUT:])
    parts = (reference_clips(asked_seeds[i : i + 8]).frames for i in range(0, HELD_OUT, 8))
    asked = torch.cat([encode_clips(vae, frames).half() for frames in parts]).float()
    net = _trained(known, list(TRAIN[:people_known]), folder / f"probe_{people_known}_{steps}", steps)
    with torch.no_grad():
        said = [torch.cat(part) for part in zip(*(net(x)[:4] for x in asked.split(BATCH)), strict=True)]
    return _scores(*said, asked_seeds)


def _both_smiles(vae: WanVAE, seeds: list[int]) -> Tensor:
    """Latents [N, 2, 16, 9, 8, 8] float16 of the people's reference clips with either smile."""
    parts = []
    for start in range(0, len(seeds), 8):
        clips = [recorded(*one, REFERENCE_TAKE).frames for one in _smiling(seeds[start : start + 8])]
        parts.append(torch.stack([encode_clips(vae, frames).half() for frames in clips], 1))
    return torch.cat(parts)


def _smiling(seeds: list[int]) -> list[tuple[People, Tracks]]:
    """People and tracks of reference clips with the smile lopsided far to one side, and to the other."""
    who, tracks = reference_tracks(seeds, REFERENCE_TAKE)
    ends = [torch.full((len(who),), LOPSIDED * end) for end in DYNAMIC["smile_asymmetry"]]
    return [(replace(who, values={**who.values, "smile_asymmetry": end}), tracks) for end in ends]


def _trained(known: Tensor, seeds: list[int], folder: Path, steps: int) -> LatentProbe:
    left, right = (_truths(*one) for one in _smiling(seeds))
    torch.manual_seed(0)
    net = LatentProbe()
    weights = torch.tensor([POSE_WEIGHTS.get(name, 1.0) for name in TRACK_SCALES])

    def loss(step: int) -> Tensor:
        generator = stream("latent probe", step)
        rows = torch.randint(len(known), (BATCH,), generator=generator)
        # Spread over all there is, which reaches a little beyond both ends.
        share = 0.5 + (torch.rand(BATCH, generator=generator) - 0.5) / LOPSIDED
        latents = known[rows].float()
        latents = latents[:, 0].lerp(latents[:, 1], share[:, None, None, None, None])
        latents = latents + NOISE * torch.randn(latents.shape, generator=generator)
        # Dropout draws from this; by step, so that a run that was stopped goes on the same.
        torch.manual_seed(step)
        with torch.autocast("cpu", torch.bfloat16):
            numeric, hues, kinds, tracks, first = (part.float() for part in net(latents))
        truth = mixed(left[rows], right[rows], share)
        numbers = ((numeric - truth.numeric).square() * truth.shown).mean(0).sum()
        angles = ((hues - truth.hues).square().sum(-1) * truth.coloured).sum() / truth.coloured.sum() * len(HUES)
        marks = len(KINDS) * F.cross_entropy(kinds.flatten(0, 1), truth.kinds.flatten())
        found = (weights * (first - truth.tracks).square()).mean((0, 1)).sum()
        moves = MOVES_WEIGHT * (tracks - truth.tracks)[..., POSE:].square().mean((0, 1)).sum()
        return numbers + angles + marks + found + moves

    plan = Plan(steps=steps, matrix_rate=0.02, other_rate=RATE, warmup=20, decay=2 * steps // 3, average=0.98)
    named, last = dict(net.named_parameters()), ("out.weight", "tracks.2.weight", "face.moves.weight")
    net.load_state_dict(fit("latent probe", named, loss, plan, folder, matrices=lambda name: name not in last))
    return net.eval().requires_grad_(False)


def _truths(who: People, tracks: Tracks) -> Targets:
    """What people's references show. They have no prompt, but all of them smile."""
    words = words_of([Prompt("front", "smile", "blue")] * len(who))
    return targets_of(who, per_frame(tracks), words)


def _scores(numeric: Tensor, hues: Tensor, kinds: Tensor, tracks: Tensor, seeds: list[int]) -> dict[str, float]:
    who = people(seeds)
    found = {}
    # Measured from the blinks it saw, as the probe of pixels does.
    blinks = tracks[..., PER_FRAME.index("blink")] * TRACK_SCALES["blink"]
    numeric[:, NUMERIC.index("blink_rate")] = standardised("blink_rate", blink_rates(blinks))
    bobs = who["bob_amplitude"] > BOB_VISIBLE
    for place, name in enumerate(NUMERIC):
        rows = bobs if name == "bob_frequency" else torch.ones_like(bobs)
        found[name] = plain(r_squared, *_arrays(standardised(name, who[name])[rows], numeric[rows, place]))
    angles = torch.atan2(hues[..., 0], hues[..., 1]) / (2 * math.pi) % 1.0
    for place, name in enumerate(HUES[: -len(KINDS)]):
        found[name] = plain(circular_r_squared, *_arrays(who[name], angles[:, place]))
    right, near = [], []
    for place, name in enumerate(KINDS):
        right.append(kinds[:, place].argmax(-1) == who[name].long())
        worn = who[name] > MARKS.index("none")
        truth, made = _arrays(who[f"{name}_hue"][worn], angles[worn, len(HUES) - len(KINDS) + place])
        near.append(hue_hit(truth, made))
    found["mark kind"], found["mark hue"] = float(torch.cat(right).float().mean()), float(np.concatenate(near).mean())
    return found


@dataclass(frozen=True)
class Fidelity:
    """How near the VAE's pictures come. `psnr` in dB by kind of clip, of the whole and of the worst frame; a clear
    frame shares its latent frame with nothing occluded or blurred."""

    psnr: dict[str, float]
    picture: np.ndarray


def fidelity(vae: WanVAE, size: int) -> Fidelity:
    """PSNR on clips of held-out people at a size, and a picture of the frames of their sweeps that come out worst, with
    and without anything occluded or blurred in their latent frame."""
    seeds, figures, shown = list(TEST[-PSNR_PEOPLE:]), {}, []
    for kind, draw in (("target", target_clips), ("reference", reference_clips)):
        clips = draw(seeds, size=size)
        made = decode_clips(vae, encode_clips(vae, clips.frames)) / 255
        error = (made - clips.frames).square().mean((2, 3, 4))
        figures[kind], figures[f"{kind}, worst frame"] = _decibel(error.mean()), _decibel(error.max())
    # The first frame has a latent frame of its own, then each four have one; what spoils one of them spoils all.
    groups = torch.cat([clips.spoiled[:, :1].expand(-1, TIME - 1), clips.spoiled], 1).unflatten(1, (-1, TIME))
    spoiled = groups.any(-1).repeat_interleave(TIME, 1)[:, TIME - 1 :]
    figures["reference, clear"] = _decibel(error[~spoiled].mean())
    figures["reference, clear, worst frame"] = _decibel(error[~spoiled].max())
    for words, rows in (("clear", ~spoiled), ("beside occlusion or blur", spoiled)):
        masked = torch.where(rows, error, 0)
        worst = masked.amax(1).argsort(descending=True)[:WORST]
        at = masked[worst].argmax(1)
        truth, got = clips.frames[worst, at], made[worst, at]
        shown += [
            (f"the worst frames of sweeps, {words}", truth),
            ("through the VAE", got),
            ("difference, four times", ((got - truth).abs() * 4).clamp(0, 1)),
        ]
    return Fidelity(figures, rows_sheet(shown, columns=WORST, title=f"{size} px"))


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(tensor.numpy().astype(float) for tensor in tensors)


def _decibel(error: Tensor) -> float:
    return -10 * math.log10(float(error))
