"""How well the judges read real renders of people they were not trained on: the ceiling of every table.

`python -m slotid_core.evaluation.accuracy` prints it, and beside it the same renders through the packaged VAE.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from ..demo.people import VALIDATION, People, people
from ..demo.prompts import POSES
from .metrics import Array, Verification, circular_r_squared, correlation, hue_hit, plain, r_squared
from .networks import EmbeddingNet
from .probe import Probe, Reading, embed_frames, embed_videos, load_embedding, load_probe
from .renders import embedding_frames, render_probe_clips
from .targets import HUES, KINDS, NUMERIC, SIDES, VOCABULARIES, shown
from .visible import poses_showing

GAPS = ((0.0, 30.0), (30.0, 60.0), (60.0, 100.0))
HELD_OUT = VALIDATION[1000:1400]


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
        if name == "smile_asymmetry":
            for place, pose in enumerate(POSES):
                there = words[:, 0].numpy()[rows] == place
                found[f"{name} {pose}"] = plain(r_squared, truth[there], made[there])
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
    """Verification of single frames of different takes by yaw gap: AUC, equal error rate, and the share accepted at 1 %
    false acceptance."""
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
        found.update(_verified(name, genuine, alike[(within & ~same).numpy()]))
    return found


def videos_verified(net: EmbeddingNet, videos: Tensor, seeds: list[int]) -> dict[str, float]:
    """The figures of `embedding_accuracy` for videos [N, T, 64, 64, 3] against renders of the same people."""
    frames, _, _ = embedding_frames(seeds)
    gallery = embed_frames(net, frames).unflatten(0, (len(seeds), -1)).mean(1)
    alike = (embed_videos(net, videos) @ torch.nn.functional.normalize(gallery, dim=-1).T).numpy().astype(float)
    own = np.eye(len(seeds), dtype=bool)
    return _verified("videos", alike[own], alike[~own])


def _verified(name: str, genuine: Array, impostors: Array) -> dict[str, float]:
    # Any grouping of the impostors will do when nothing is resampled.
    share = len(impostors) // len(genuine)
    both = Verification(genuine, impostors[: share * len(genuine)].reshape(len(genuine), share))
    ones = np.ones((1, len(genuine)))
    accepted = float(both.accepted(ones)[0])
    error = equal_error_rate(genuine, impostors)
    return {f"auc {name}": float(both.auc(ones)[0]), f"eer {name}": error, f"accepted {name}": accepted}


def equal_error_rate(genuine: Array, impostors: Array) -> float:
    """The share of wrong decisions at the threshold that refuses as large a share of genuine as it accepts of
    impostor similarities."""
    genuine, impostors = np.sort(genuine), np.sort(impostors)
    thresholds = np.concatenate([genuine, impostors])
    refused = np.searchsorted(genuine, thresholds, side="right") / len(genuine)
    passed = 1 - np.searchsorted(impostors, thresholds, side="right") / len(impostors)
    at = np.abs(refused - passed).argmin()
    return float(refused[at] + passed[at]) / 2


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    from ..demo.files import demo_files
    from ..demo.store import load_vae
    from .sampling import decode_clips, encode_clips

    parser = argparse.ArgumentParser(prog="python -m slotid_core.evaluation.accuracy", description=__doc__)
    parser.add_argument("--people", type=int, default=len(HELD_OUT), help="held-out people (default %(default)s)")
    seeds = list(HELD_OUT[: parser.parse_args(arguments).people])
    frames, _, words = render_probe_clips(seeds)
    vae, probe, net = load_vae(demo_files().vae), load_probe(), load_embedding()
    columns = []
    for videos in (frames, decode_clips(vae, encode_clips(vae, frames.float() / 255))):
        found = agreement(probe.read(videos), people(seeds), words)
        columns.append({**found, **videos_verified(net, videos, seeds)})
    print(f"| {len(seeds)} people from validation seed {seeds[0]} on | renders | through the VAE |\n|---|---|---|")
    for name, value in columns[0].items():
        print(f"| {name.replace('_', ' ')} | {value:.3f} | {columns[1][name]:.3f} |")


if __name__ == "__main__":
    main()
