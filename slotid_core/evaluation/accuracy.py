"""How well the judges read real renders of people they were not trained on: the ceiling of every table."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..demo.people import People, people
from ..demo.prompts import POSES
from .metrics import Verification, circular_r_squared, correlation, hue_hit, plain, r_squared
from .networks import EmbeddingNet
from .probe import Probe, Reading, embed_frames
from .renders import embedding_frames, render_probe_clips
from .targets import HUES, KINDS, NUMERIC, SIDES, VOCABULARIES, shown
from .visible import poses_showing

GAPS = ((0.0, 30.0), (30.0, 60.0), (60.0, 100.0))


def probe_accuracy(probe: Probe, seeds: list[int]) -> dict[str, float]:
    """R^2 by parameter (circular for hues, of videos that show it), accuracies of words, and of marks clearly shown."""
    frames, _, words = render_probe_clips(seeds)
    return agreement(probe.read(frames), people(seeds), words)


def agreement(reading: Reading, who: People, words: Tensor) -> dict[str, float]:
    """The figures of `probe_accuracy` for videos of `who` with prompts `words` [N, 3], as read."""
    found = {}
    for name in NUMERIC:
        rows = shown(name, who, words).numpy()
        truth, made = who[name].numpy()[rows].astype(float), reading.numbers[name].numpy()[rows].astype(float)
        found[name] = plain(r_squared, truth, made)
        found[f"{name} correlation"] = plain(correlation, truth, made)
    for name in HUES[: -len(KINDS)]:
        truth, made = who[name].numpy().astype(float), reading.numbers[name].numpy().astype(float)
        found[name] = plain(circular_r_squared, truth, made)
    poses = np.array(tuple(POSES))[words[:, 0].numpy()]
    kinds, hues = [], []
    for side, name in zip(SIDES, KINDS, strict=True):
        clear = np.isin(poses, poses_showing(side))
        truth = who[name].numpy().astype(int)
        kinds.append((reading.kinds[name].numpy() == truth)[clear])
        worn = clear & (truth > 0)
        hue = f"{name}_hue"
        hues.append(hue_hit(who[hue].numpy()[worn], reading.numbers[hue].numpy()[worn]))
    found["mark kind"], found["mark hue"] = float(np.concatenate(kinds).mean()), float(np.concatenate(hues).mean())
    for place, name in enumerate(VOCABULARIES):
        found[name] = float((reading.words[name] == words[:, place]).float().mean())
    return found


def embedding_accuracy(net: EmbeddingNet, seeds: list[int]) -> dict[str, float]:
    """Verification of single frames of different takes: AUC, and share accepted at 1 % false acceptance, by yaw gap."""
    frames, yaw, take = embedding_frames(seeds)
    vectors = embed_frames(net, frames)
    count = len(frames) // len(seeds)
    who = torch.arange(len(seeds)).repeat_interleave(count)
    alike = (vectors @ vectors.T).numpy().astype(float)
    same = who[:, None] == who[None, :]
    pairs = torch.triu(torch.ones_like(same), 1)
    gap = (yaw[:, None] - yaw[None, :]).abs()
    found = {}
    for name, (low, high) in {"all": (0.0, 360.0), **{f"{a:.0f}-{b:.0f}": (a, b) for a, b in GAPS}}.items():
        within = pairs & (gap >= low) & (gap < high)
        genuine = alike[(within & same & (take[:, None] != take[None, :])).numpy()]
        impostors = alike[(within & ~same).numpy()]
        # Any grouping of the impostors will do when nothing is resampled.
        share = len(impostors) // len(genuine)
        both = Verification(genuine, impostors[: share * len(genuine)].reshape(len(genuine), share))
        ones = np.ones((1, len(genuine)))
        found[f"auc {name}"], found[f"accepted {name}"] = float(both.auc(ones)[0]), float(both.accepted(ones)[0])
    return found
