"""Train the probe on rendered clips of training people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..demo.fitting import Plan, fit
from ..demo.people import VALIDATION, people
from ..demo.seeds import stream
from .networks import ProbeNet
from .renders import cached, probe_part, render_probe_clips, to_network
from .softness import Codec, grouped, softened
from .targets import HUES, KINDS, NUMERIC, Targets, glimpsed, mirrored, targets_of

CLIPS = 10240
PART = 256
BATCH = 32
PLAN = Plan(steps=1800, matrix_rate=0.02, other_rate=2e-3, warmup=30, decay=800, average=0.99)
# Then, once the tracks tell where the head is, the mouth is read as well, and everything also from what a codec left.
FINISH = Plan(steps=1200, matrix_rate=0.01, other_rate=1e-3, warmup=30, decay=1000, average=0.99)
# Neighbouring frames are much alike. Once the probe follows how people move, three steps of four look at a few frames
# of many clips instead, for the details of how they look.
WHOLE_CLIPS_UNTIL = 900
GLIMPSES, GLIMPSED_FRAMES, GLIMPSED_STEP = 96, 5, 3
# A per-frame track is a means, not an end.
_TRACK_WEIGHT = 0.5


def train_probe(folder: Path, seed: int, steps: int, finish: int, clips: int) -> ProbeNet:
    """The probe's averaged weights after `steps` of 32 clips out of `clips` (a multiple of 256), and `finish` more."""
    data = cached("probe", probe_part, clips, folder, PART)
    truths = targets_of(people(data["seeds"].tolist()), data["tracks"], data["words"])
    torch.manual_seed(seed)
    net = ProbeNet().to(memory_format=torch.channels_last)
    held_out = held_out_clips(64)

    def batch(generator: torch.Generator, glimpse: bool) -> tuple[Tensor, Targets]:
        count = GLIMPSES if glimpse else BATCH
        rows = torch.randint(len(data["frames"]), (count,), generator=generator)
        mirror = torch.rand(count, generator=generator) < 0.5
        clips, truth = data["frames"][rows], mirrored(truths[rows], mirror)
        if glimpse:
            last = clips.shape[1] - (GLIMPSED_FRAMES - 1) * GLIMPSED_STEP
            picked = torch.randint(last, (), generator=generator) + GLIMPSED_STEP * torch.arange(GLIMPSED_FRAMES)
            clips, truth = clips[:, picked], glimpsed(truth, picked)
        frames = to_network(clips)
        return torch.where(mirror[:, None, None, None, None], frames.flip(-1), frames), truth

    def first(step: int) -> Tensor:
        generator = stream("probe", seed, step)
        frames, truth = batch(generator, step >= WHOLE_CLIPS_UNTIL and step % 4 != 0)
        # Half of each batch stays as it was rendered.
        half = len(frames) // 2
        frames = torch.cat([softened(frames[:half], generator), frames[half:]])
        with torch.autocast("cpu", torch.bfloat16):
            made = net.look(frames)
        return probe_loss(made, truth)

    def second(step: int) -> Tensor:
        generator = stream("probe finish", seed, step)
        glimpse = step % 2 != 0
        frames, truth = batch(generator, glimpse)
        quarter, half = len(frames) // 4, len(frames) // 2
        coded = frames[:quarter]
        if glimpse:
            coded = codec.stills(coded.flatten(0, 1), generator).view_as(coded)
        else:
            coded = codec.clips(coded, generator)
        frames = torch.cat([coded, softened(frames[quarter:half], generator), frames[half:]])
        with torch.autocast("cpu", torch.bfloat16):
            made = net(frames)
        return probe_loss(made, truth)

    @torch.no_grad()
    def report(step: int) -> str:
        return f"held out {probe_loss(net(held_out[0]), held_out[1]):.3f}"

    def matrices(name: str) -> bool:
        return name not in ("out.weight", "tracks.weight", "mouth.out.weight")

    named = dict(net.named_parameters())
    looking = {name: value for name, value in named.items() if not name.startswith("mouth.")}
    plan = replace(PLAN, steps=steps)
    learned = fit("probe", looking, first, plan, folder, matrices=matrices, report=report)
    net.load_state_dict({**net.state_dict(), **learned})
    codec = Codec(grouped(to_network(data["frames"][:PART])))
    plan = replace(FINISH, steps=finish)
    net.load_state_dict(fit("probe_finish", named, second, plan, folder, matrices=matrices, report=report))
    return net.eval().requires_grad_(False)


def probe_loss(made: tuple[dict[str, Tensor], Tensor, Tensor], truth: Targets) -> Tensor:
    """Squared errors of numbers and hues that the clip shows, cross-entropies of the rest."""
    outputs, _, tracks = made
    numbers = ((outputs["numeric"] - truth.numeric).square() * truth.shown).sum() / truth.shown.sum() * len(NUMERIC)
    angles = (outputs["hues"].unflatten(-1, (len(HUES), 2)) - truth.hues).square().sum(-1)
    hues = (angles * truth.coloured).sum() / truth.coloured.sum() * len(HUES)
    kinds = F.cross_entropy(outputs["kinds"].unflatten(-1, (len(KINDS), 3)).flatten(0, 1), truth.kinds.flatten())
    words = sum(F.cross_entropy(outputs[kind], truth.words[:, i]) for i, kind in enumerate(_WORDS))
    yaw = (outputs["yaw"][:, 0] - truth.yaw()).square().mean()
    motion = (tracks - truth.tracks).square().mean(dim=(0, 1)).sum()
    return numbers + hues + len(KINDS) * kinds + words + yaw + _TRACK_WEIGHT * motion


_WORDS = ("pose", "expression", "background")


def held_out_clips(count: int) -> tuple[Tensor, Targets]:
    """Clips of validation people as the network takes them, and their truths."""
    seeds = list(VALIDATION[:count])
    frames, tracks, words = render_probe_clips(seeds)
    return to_network(frames), targets_of(people(seeds), tracks, words)
