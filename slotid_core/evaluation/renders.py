"""Rendered clips and frames of training people, kept on disk in parts, from which probe and embedding learn.

Nothing here has been through a VAE or a video model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from .. import checkpoint
from ..demo.clips import TARGET_FRAMES, target_clips, target_tracks
from ..demo.people import TRAIN, People
from ..demo.prompts import BACKGROUNDS, EXPRESSIONS, POSES, Prompt
from ..demo.renderer import PER_FRAME, Tracks, render
from ..demo.seeds import choice, integer, stream

# Half the clips smile: three of the parameters show in a smile alone.
_EXPRESSIONS = (*EXPRESSIONS, "smile")
PROBE_PEOPLE = TRAIN[500_000:]
EMBEDDING_PEOPLE = TRAIN[600_000:]
FRAMES_PER_PERSON = 10
TAKES = 5


def evaluation_prompt(*key: str | int) -> Prompt:
    """A prompt drawn for this key; every second one smiles."""
    generator = stream("evaluation prompt", *key)
    return Prompt(*(choice(generator, tuple(words)) for words in (POSES, _EXPRESSIONS, BACKGROUNDS)))


def probe_part(start: int, count: int) -> dict[str, Tensor]:
    """Target clips of `count` training people: seeds [N] int64 and what `render_probe_clips` gives."""
    seeds = list(PROBE_PEOPLE[start : start + count])
    frames, tracks, words = render_probe_clips(seeds)
    return {"frames": frames, "seeds": torch.tensor(seeds), "tracks": tracks, "words": words}


def render_probe_clips(seeds: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """One target clip of each person.

    Returns:
        frames [N,T,64,64,3] uint8; tracks [N,T,8] in the order of PER_FRAME; words [N,3] int64, the prompt's place in
        each vocabulary.
    """
    prompts = [evaluation_prompt("probe", seed) for seed in seeds]
    clips = [target_clips(seeds[i : i + 16], 0, prompts=prompts[i : i + 16]) for i in range(0, len(seeds), 16)]
    frames = torch.cat([to_bytes(part.frames) for part in clips])
    return frames, torch.cat([per_frame(part.tracks) for part in clips]), words_of(prompts)


def embedding_part(start: int, count: int) -> dict[str, Tensor]:
    """Single frames [N,10,64,64,3] uint8 of `count` training people."""
    seeds = list(EMBEDDING_PEOPLE[start : start + count])
    frames, _, _ = embedding_frames(seeds)
    return {"frames": frames.unflatten(0, (count, FRAMES_PER_PERSON))}


def embedding_frames(seeds: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Ten frames of each person, two from each of five takes.

    Returns:
        frames [N * 10, 64, 64, 3] uint8; yaw [N * 10] in degrees; the take [N * 10] of each.
    """
    keys = [(seed, take) for seed in seeds for take in range(TAKES)]
    frames, yaw = [], []
    for first in range(0, len(keys), 40):
        pieces = [_two_frames(*key) for key in keys[first : first + 40]]
        who = _joined([people for people, _ in pieces])
        tracks = Tracks(
            **{name: torch.cat([getattr(t, name) for _, t in pieces]) for name in Tracks.__dataclass_fields__}
        )
        frames.append(to_bytes(render(who, tracks)).flatten(0, 1))
        yaw.append(torch.rad2deg(tracks.yaw).flatten())
    take = torch.tensor([take for _, take in keys]).repeat_interleave(2)
    return torch.cat(frames), torch.cat(yaw), take


def cached(
    kind: str, make: Callable[[int, int], dict[str, Tensor]], count: int, folder: Path, part: int
) -> dict[str, Tensor]:
    """`make` of `count` people (a multiple of `part`), made part by part: an interrupted run goes on where it was."""
    from tqdm import tqdm

    pieces = []
    for start in tqdm(range(0, count, part), desc=f"{kind} renders", mininterval=5):
        path = folder / f"{kind}_{start:06d}.safetensors"
        if not path.exists():
            checkpoint.write(path, make(start, part), {})
        pieces.append(safetensors.torch.load_file(path))
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def per_frame(tracks: Tracks) -> Tensor:
    """[B, T, 8] in the order of PER_FRAME."""
    return torch.stack([getattr(tracks, name) for name in PER_FRAME], dim=-1)


def words_of(prompts: list[Prompt]) -> Tensor:
    """Prompts as places in their vocabularies [B, 3]: pose, expression, background."""
    vocabularies = (tuple(POSES), EXPRESSIONS, tuple(BACKGROUNDS))
    rows = [(p.pose, p.expression, p.background) for p in prompts]
    return torch.tensor([[words.index(word) for word, words in zip(row, vocabularies, strict=True)] for row in rows])


def to_bytes(frames: Tensor) -> Tensor:
    """Frames in [0, 1] to uint8, as a video file would hold them."""
    return (frames * 255).round().to(torch.uint8)


def to_network(frames: Tensor) -> Tensor:
    """Frames [..., H, W, 3], uint8 or in [0, 1], to float32 [..., 3, H, W] in [-1, 1]."""
    scaled = frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames.float() * 2 - 1
    return scaled.movedim(-1, -3)


def _two_frames(seed: int, take: int) -> tuple[People, Tracks]:
    generator = stream("embedding frames", seed, take)
    who, tracks = target_tracks([seed], take, [evaluation_prompt("embedding", seed, take)])
    early, late = integer(generator, 0, 7), integer(generator, 8, TARGET_FRAMES - 1)
    moments = {name: getattr(tracks, name)[:, [early, late]] for name in PER_FRAME}
    return who, Tracks(**{**{name: getattr(tracks, name) for name in Tracks.__dataclass_fields__}, **moments})


def _joined(people: list[People]) -> People:
    values = {name: torch.cat([one[name] for one in people]) for name in people[0].values}
    return People(tuple(seed for one in people for seed in one.seeds), values)
