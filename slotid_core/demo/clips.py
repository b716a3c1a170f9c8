"""What a person does in a clip: reference clips to read an identity from, and target clips to learn to generate.

Both are sampled from (person, take): the same pair gives the same clip. A person's takes share nothing but the person.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .people import People, people
from .prompts import BACKGROUNDS, EXPRESSIONS, POSES, Prompt
from .renderer import Tracks, render
from .seeds import choice, integer, stream, uniform

FPS = 16
REFERENCE_FRAMES = 33
TARGET_FRAMES = 17
REFERENCE_SWEEP = (60.0, 70.0)
POSE_JITTER = 4.0


@dataclass(frozen=True)
class DemoClips:
    """B rendered clips: frames [B, T, H, W, 3] in [0, 1], who and what is in them.

    `prompts` is empty for reference clips. `spoiled` [B, T] is true where a reference frame is occluded or blurred.
    """

    frames: Tensor
    people: People
    tracks: Tracks
    prompts: tuple[Prompt, ...]
    spoiled: Tensor


def reference_tracks(
    seeds: Sequence[int], take: int = 0, frames: int = REFERENCE_FRAMES, sweep: tuple[float, float] | None = None
) -> tuple[People, Tracks]:
    """Who and what `reference_clips` draws."""
    who = people(seeds)
    scenes = [_reference_scene(who, index, seed, take, frames, sweep) for index, seed in enumerate(who.seeds)]
    return who, _stack(scenes)


def target_tracks(
    seeds: Sequence[int], take: int, prompts: Sequence[Prompt], frames: int = TARGET_FRAMES
) -> tuple[People, Tracks]:
    """Who and what `target_clips` draws."""
    who = people(seeds)
    pairs = enumerate(zip(who.seeds, prompts, strict=True))
    return who, _stack([_target_scene(who, index, seed, take, frames, prompt) for index, (seed, prompt) in pairs])


def reference_clips(
    seeds: Sequence[int],
    take: int = 0,
    *,
    frames: int = REFERENCE_FRAMES,
    size: int = 64,
    supersample: int = 1,
    sweep: tuple[float, float] | None = None,
) -> DemoClips:
    """One reference clip of each person.

    The head turns slowly once from one side (60 to 70 degrees) to the other; the face is neutral, then smiles, then is
    surprised, and blinks at least once. Two to three frames are occluded and as many blurred, as in real clips. With
    `sweep` it turns from one of these yaws to the other instead, in degrees.
    """
    return recorded(*reference_tracks(seeds, take, frames, sweep), take, size, supersample)


def recorded(who: People, tracks: Tracks, take: int = 0, size: int = 64, supersample: int = 1) -> DemoClips:
    """The reference clips of people and tracks, with the occluded and blurred frames of each person's take."""
    pictures = render(who, tracks, size, supersample)
    spoiled = torch.stack([_spoil(clip, seed, take) for clip, seed in zip(pictures, who.seeds, strict=True)])
    return DemoClips(pictures, who, tracks, (), spoiled)


def target_clips(
    seeds: Sequence[int],
    take: int = 0,
    *,
    prompts: Sequence[Prompt] | None = None,
    frames: int = TARGET_FRAMES,
    size: int = 64,
    supersample: int = 1,
) -> DemoClips:
    """One target clip of each person, showing its prompt; without `prompts`, each take has its own sampled one."""
    chosen = tuple(prompts) if prompts is not None else tuple(target_prompt(seed, take) for seed in seeds)
    who, tracks = target_tracks(seeds, take, chosen, frames)
    pictures = render(who, tracks, size, supersample)
    return DemoClips(pictures, who, tracks, chosen, torch.zeros(pictures.shape[:2], dtype=torch.bool))


def target_prompt(seed: int, take: int) -> Prompt:
    """The prompt of a person's target take."""
    generator = stream("prompt", seed, take)
    return Prompt(*(choice(generator, tuple(words)) for words in (POSES, EXPRESSIONS, BACKGROUNDS)))


def _reference_scene(
    who: People, index: int, seed: int, take: int, frames: int, sweep: tuple[float, float] | None
) -> dict[str, Tensor]:
    generator = stream("reference", seed, take)
    time = torch.linspace(0.0, 1.0, frames)
    start = choice(generator, (-1.0, 1.0)) * math.radians(uniform(generator, *REFERENCE_SWEEP))
    end = -math.copysign(math.radians(uniform(generator, *REFERENCE_SWEEP)), start)
    if sweep is not None:
        start, end = (math.radians(yaw) for yaw in sweep)
    # A little slower at both ends, as heads are, but never faster than 1.25 times the mean speed.
    eased = time - 0.25 * torch.sin(2 * math.pi * time) / (2 * math.pi)
    scene = _shared(generator, frames, start + (end - start) * eased)
    begin, turn = uniform(generator, 0.16, 0.24), uniform(generator, 0.62, 0.68)
    scene["smile"] = _formed_smile(who, index, (time - begin) / 0.30) * (1.0 - _ramp((time - turn + 0.06) / 0.12))
    scene["surprise"] = _ramp((time - turn) / 0.14)
    return _alive(scene, generator, who, index, frames)


def _target_scene(who: People, index: int, seed: int, take: int, frames: int, prompt: Prompt) -> dict[str, Tensor]:
    generator = stream("target", seed, take)
    time = torch.linspace(0.0, 1.0, frames)
    centre = POSES[prompt.pose] + uniform(generator, -POSE_JITTER, POSE_JITTER)
    drift = uniform(generator, -POSE_JITTER, POSE_JITTER)
    scene = _shared(generator, frames, torch.deg2rad(centre + drift * (2 * time - 1)), prompt.background)
    scene["smile"] = _formed_smile(who, index, time) if prompt.expression == "smile" else torch.zeros(frames)
    rise = _ramp((time - uniform(generator, 0.1, 0.3)) / 0.3)
    scene["surprise"] = rise if prompt.expression == "surprise" else torch.zeros(frames)
    return _alive(scene, generator, who, index, frames)


def _shared(generator: torch.Generator, frames: int, yaw: Tensor, background: str | None = None) -> dict[str, Tensor]:
    """Everything about a take that has nothing to do with the person."""
    time = torch.linspace(0.0, 1.0, frames)
    pitch = uniform(generator, -6, 8) + uniform(generator, 0, 4) * torch.sin(
        2 * math.pi * (time * uniform(generator, 0.3, 0.8) + uniform(generator))
    )
    colour = torch.tensor(BACKGROUNDS[background or choice(generator, tuple(BACKGROUNDS))])
    colour = colour + torch.tensor([uniform(generator, -0.03, 0.03) for _ in range(3)])
    light = torch.tensor([uniform(generator, -0.6, 0.6), uniform(generator, 0.1, 0.6), 0.8])
    return {
        "yaw": yaw,
        "pitch": torch.deg2rad(pitch),
        "roll": torch.deg2rad(torch.full((frames,), uniform(generator, -4, 4))),
        "x": torch.full((frames,), uniform(generator, -0.04, 0.04)),
        "y": torch.full((frames,), uniform(generator, -0.02, 0.02)),
        "light": light / light.norm(),
        "ambient": torch.tensor(uniform(generator, 0.42, 0.62)),
        "background": torch.stack([colour * 1.06, colour * 0.80]).clamp(0, 1),
        "shirt": torch.tensor([uniform(generator, 0.15, 0.9) for _ in range(3)]),
    }


def _alive(
    scene: dict[str, Tensor], generator: torch.Generator, who: People, index: int, frames: int
) -> dict[str, Tensor]:
    """Add this person's blinks and head bob, at a phase that belongs to the take."""
    seconds = torch.arange(frames) / FPS
    rate = who["blink_rate"][index]
    cycle = (seconds * rate + uniform(generator)) % 1.0
    since = torch.minimum(cycle, 1.0 - cycle) / rate
    scene["blink"] = (1.35 - since * FPS * 0.75).clamp(0.0, 1.0)
    phase = seconds * who["bob_frequency"][index] + uniform(generator)
    scene["y"] = scene["y"] + who["bob_amplitude"][index] * torch.sin(2 * math.pi * phase)
    return scene


def _formed_smile(who: People, index: int, progress: Tensor) -> Tensor:
    """The smile at `progress` 0 .. 1 of its time: it forms only after the person's onset."""
    return _ramp((progress - who["smile_onset"][index]) / 0.35)


def _ramp(x: Tensor) -> Tensor:
    x = x.clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _stack(scenes: list[dict[str, Tensor]]) -> Tracks:
    return Tracks(**{name: torch.stack([scene[name] for scene in scenes]) for name in Tracks.__dataclass_fields__})


def _spoil(clip: Tensor, seed: int, take: int) -> Tensor:
    """Occlude and blur a few frames of `clip` [T,H,W,3] in place, by person and take; returns which [T]."""
    generator = stream("spoil", seed, take)
    frames, size = clip.shape[0], clip.shape[1]
    spoiled = torch.zeros(frames, dtype=torch.bool)
    if frames < REFERENCE_FRAMES // 2:
        return spoiled
    occluded, blurred = integer(generator, 1, frames // 2 - 3), integer(generator, frames // 2, frames - 4)
    if choice(generator, (False, True)):
        occluded, blurred = blurred, occluded
    colour = torch.tensor([uniform(generator, 0.2, 0.7) for _ in range(3)])
    slant, offset, speed = uniform(generator, -0.6, 0.6), uniform(generator, -0.3, 0.3), uniform(generator, -0.2, 0.2)
    line = (torch.arange(size) + 0.5) * 2 / size - 1
    for step in range(integer(generator, 2, 3)):
        distance = (line[None, :] + slant * line[:, None] - offset - speed * step).abs()
        bar = ((0.24 - distance) * size / 2 + 0.5).clamp(0, 1)[..., None]
        clip[occluded + step] = clip[occluded + step] * (1 - bar) + colour * bar
        spoiled[occluded + step] = True
    width = 2 * max(1, size // 21) + 1
    for step in range(integer(generator, 2, 3)):
        picture = clip[blurred + step].permute(2, 0, 1)[None]
        padded = torch.nn.functional.pad(picture, (width // 2,) * 4, mode="replicate")
        clip[blurred + step] = torch.nn.functional.avg_pool2d(padded, width, 1)[0].permute(1, 2, 0)
        spoiled[blurred + step] = True
    return spoiled
