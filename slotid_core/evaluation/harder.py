"""References that are harder to read than those of training: where is which part of the encoder worth something?

In the references of training the head fills the frame before a plain background, and each side is seen for a third of
the time. What a dustbin or a memory is for hardly occurs there. Here it does: the other side is shown for a quarter of
a second, the background is patterned and moves, somebody looks over the shoulder. No encoder learned from such clips.

What an encoder understood is read by the linear layer that it was trained with (`loss.attributes`), which a run's
checkpoints keep. No video is sampled, so a difference here is one of reading alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..demo.clips import DemoClips, recorded, reference_clips, reference_tracks
from ..demo.files import demo_files
from ..demo.people import MARKS, TRAIN, People, people
from ..demo.seeds import choice, integer, stream, uniform
from ..demo.store import attributes, load_vae, normalised_parameters
from ..errors import SlotIDError
from ..training.state import Checkpoints
from ..training.variants import VARIANTS
from .bootstrap import Bootstrap, Estimate, Group
from .conditions import FULL
from .design import Design
from .merged import VIEWS
from .metrics import Array, mean_of
from .models import ENCODING_BATCH, find_trained, load_trained, read_origin
from .sampling import encode_clips
from .tables import cell
from .targets import KINDS

PEOPLE = 256
AT_ONCE = 16
# Takes that no other measurement reads.
TAKE, OTHER_TAKE = 3, 4
# Video frames of one latent frame, all but the first.
GLANCE = 4
# Blocks along each side of a pattern.
BLOCKS = 8
# People whom no encoder has learned from.
BYSTANDERS = TRAIN[700_000:]


def usual(seeds: Sequence[int]) -> DemoClips:
    """As in training."""
    return reference_clips(seeds, TAKE)


def glance(seeds: Sequence[int]) -> DemoClips:
    """One side for all of the clip but one latent frame, which shows the other: the left of people with even seeds."""
    sign = torch.tensor([1.0 if seed % 2 == 0 else -1.0 for seed in seeds])[:, None]
    # Positive yaw shows a person's right side.
    who, tracks = reference_tracks(seeds, TAKE, sweep=VIEWS)
    yaw = tracks.yaw.clone()
    for row, seed in enumerate(seeds):
        latent_frames = tracks.yaw.shape[1] // GLANCE
        begin = 1 + GLANCE * integer(stream("glance", seed), 1, latent_frames - 2)
        yaw[row, begin : begin + GLANCE] *= -1
    return recorded(who, replace(tracks, yaw=sign * yaw), TAKE)


def clutter(seeds: Sequence[int]) -> DemoClips:
    """Before a background of coloured blocks that drift."""
    clips, free = _cut_out(seeds, TAKE)
    return replace(clips, frames=clips.frames + free * torch.stack([_blocks(seed, clips) for seed in seeds]))


def bystander(seeds: Sequence[int]) -> DemoClips:
    """Somebody else, half as large, looks over a shoulder."""
    clips, free = _cut_out(seeds, TAKE)
    other, other_free = _cut_out([BYSTANDERS[seed % len(BYSTANDERS)] for seed in seeds], OTHER_TAKE)
    behind = clips.tracks.background.mean(1)[:, None, None, None].expand_as(clips.frames).clone()
    half = clips.frames.shape[2] // 2
    small, small_free = _halved(other.frames), _halved(other_free)
    for row, seed in enumerate(seeds):
        corner = choice(stream("bystander", seed), (slice(0, half), slice(half, 2 * half)))
        behind[row, :, :half, corner] = small[row] + small_free[row] * behind[row, :, :half, corner]
    return replace(clips, frames=clips.frames + free * behind)


CLIPS: dict[str, Callable[[Sequence[int]], DemoClips]] = {
    "as in training": usual,
    "the other side at a glance": glance,
    "patterned background": clutter,
    "a bystander": bystander,
}


def _cut_out(seeds: Sequence[int], take: int) -> tuple[DemoClips, Tensor]:
    """Reference clips before black, and the share [B, T, H, W, 3] of each pixel that the background has."""
    who, tracks = reference_tracks(seeds, take)
    black, white = (
        recorded(who, replace(tracks, background=torch.full_like(tracks.background, level)), take)
        for level in (0.0, 1.0)
    )
    return replace(black, tracks=tracks), white.frames - black.frames


def _blocks(seed: int, clips: DemoClips) -> Tensor:
    """[T, H, W, 3] of coloured blocks that move by up to a pixel a frame."""
    generator = stream("clutter", seed)
    frames, height, width = clips.frames.shape[1:4]
    pattern = 0.2 + 0.6 * torch.rand(BLOCKS, BLOCKS, 3, generator=generator)
    pattern = pattern.repeat_interleave(height // BLOCKS, 0).repeat_interleave(width // BLOCKS, 1)
    speed = [uniform(generator, -1, 1) for _ in range(2)]
    moved = [pattern.roll([round(t * pixels) for pixels in speed], (0, 1)) for t in range(frames)]
    return torch.stack(moved)


def _halved(frames: Tensor) -> Tensor:
    """[B, T, H, W, 3] at half the size."""
    return F.avg_pool2d(frames.flatten(0, 1).movedim(-1, 1), 2).movedim(1, -1).unflatten(0, frames.shape[:2])


@dataclass(frozen=True)
class Reader:
    """An encoder and the layer that tells its tokens' numbers of a person (weight [n, tokens], bias [n])."""

    variant: str
    seed: int
    encoder: torch.nn.Module
    weight: Tensor
    bias: Tensor

    @classmethod
    def load(cls, run: Path) -> Reader:
        """From the folder of a run.

        Raises:
            SlotIDError: no trained encoder that reads clips, or no such layer, in the folder.
        """
        wanted = "a finished run of slotid train with loss.attributes, of an encoder that reads clips"
        advice = "train one as docs/training.md says."
        state = Checkpoints(run).load()
        files = find_trained(run)
        if state is None or len(files) != 1:
            raise SlotIDError(f"{len(files)} encoders and no checkpoint to go with one in {str(run)!r}", wanted, advice)
        origin, learned = read_origin(files[0]), state[1]["average"]
        if VARIANTS[origin.variant].reference != "clip" or "readout.weight" not in learned:
            raise SlotIDError(f"{origin.variant!r} in {str(run)!r} cannot be asked", wanted, advice)
        encoder = load_trained(files[0]).encoder
        return cls(origin.variant, origin.seed or 0, encoder, learned["readout.weight"], learned["readout.bias"])

    @torch.no_grad()
    def read(self, latents: Tensor) -> Tensor:
        """What is read [B, n] from latents [B, 16, F, h, w], in the terms of `attributes`."""
        tokens = torch.cat([self.encoder(part)[0] for part in latents.split(ENCODING_BATCH)])
        # As the training's loss reads them.
        flat = F.layer_norm(tokens, tokens.shape[-1:]).flatten(1) / tokens[0].numel() ** 0.5
        return F.linear(flat, self.weight, self.bias)


def explained(read: Tensor, who: People) -> Array:
    """1 - mean squared error of what was read [B, n], by person [B]; each number's variance over people is 1."""
    return (1 - (read - attributes(normalised_parameters(who))).square().mean(1)).numpy()


def right_kinds(read: Tensor, who: People, side: str) -> Array:
    """Whether the kind of one side's mark is right [B], "left" or "right"; the last numbers read are the kinds'."""
    kinds = read[:, -len(KINDS) * len(MARKS) :].unflatten(1, (len(KINDS), len(MARKS)))
    name = f"mark_{side}"
    return (kinds[:, KINDS.index(name)].argmax(1) == who[name].long()).numpy()


@dataclass(frozen=True)
class Answers:
    """By reader and kind of clip: `explained` and the share of right marks' kinds, one number a person [N].

    For "the other side at a glance" the marks are those of the side seen at a glance; else those of both sides.
    """

    person: Array
    readers: tuple[tuple[str, int], ...]
    explained: dict[tuple[str, int, str], Array]
    marks: dict[tuple[str, int, str], Array]


def ask(readers: Sequence[Reader], seeds: Sequence[int], clips: Sequence[str] = tuple(CLIPS)) -> Answers:
    """Ask every reader about every kind of clip of every person."""
    vae, who = load_vae(demo_files().vae), people(seeds)
    right_at_a_glance = np.array([seed % 2 == 1 for seed in seeds])
    told: dict[tuple[str, int, str], Array] = {}
    marks: dict[tuple[str, int, str], Array] = {}
    for kind in clips:
        parts = [seeds[i : i + AT_ONCE] for i in range(0, len(seeds), AT_ONCE)]
        latents = torch.cat([encode_clips(vae, CLIPS[kind](part).frames) for part in parts])
        for reader in readers:
            read, key = reader.read(latents), (reader.variant, reader.seed, kind)
            told[key] = explained(read, who)
            left, right = (right_kinds(read, who, side) for side in ("left", "right"))
            seen = CLIPS[kind] is glance
            marks[key] = np.where(right_at_a_glance, right, left) if seen else (left.astype(float) + right) / 2
    return Answers(np.array(seeds), tuple((reader.variant, reader.seed) for reader in readers), told, marks)


def report(answers: Answers, clips: Sequence[str] = tuple(CLIPS)) -> str:
    """Two tables, and how much less than the full encoder each of the others reads."""
    said = []
    for title, values in (("explained", answers.explained), ("marks' kinds", answers.marks)):
        rows = [[title, *clips], ["---"] * (len(clips) + 1)]
        names = list(dict.fromkeys(name for name, _ in answers.readers))
        for name in sorted(names, key=lambda name: (name != FULL, list(VARIANTS).index(name))):
            rows.append([VARIANTS[name].says, *(cell(_mean(answers, values, name, kind)) for kind in clips)])
        for name in names:
            if FULL in names and name != FULL:
                cells = (cell(_ahead(answers, values, name, kind)) for kind in clips)
                rows.append([f"full minus {VARIANTS[name].says}", *cells])
        said.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(said)


def _rows(answers: Answers, values: dict[tuple[str, int, str], Array], name: str, kind: str) -> tuple[Array, Group]:
    seeds = [seed for variant, seed in answers.readers if variant == name]
    rows = np.concatenate([values[name, seed, kind] for seed in seeds]).astype(float)
    return rows, Group(np.tile(answers.person, len(seeds)), np.repeat(seeds, len(answers.person)))


def _mean(answers: Answers, values: dict[tuple[str, int, str], Array], name: str, kind: str) -> Estimate:
    rows, group = _rows(answers, values, name, kind)
    return Bootstrap(answers.person).estimate(mean_of(rows), group, name)


def _ahead(answers: Answers, values: dict[tuple[str, int, str], Array], name: str, kind: str) -> Estimate:
    (full, full_group), (rows, group) = (_rows(answers, values, one, kind) for one in (FULL, name))
    both = (mean_of(full), full_group, FULL), (mean_of(rows), group, name)
    return Bootstrap(answers.person).difference(*both)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    from ..sheets import save_image

    parser = argparse.ArgumentParser(prog="python -m slotid_core.evaluation.harder", description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs of slotid train")
    parser.add_argument("--identity-seed", type=int, default=Design().first, metavar="N", help="the first person")
    parser.add_argument("--people", type=int, default=PEOPLE, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--sheet", metavar="FILE", help="also write frames of the clips of the first people (.png)")
    args = parser.parse_args(arguments)
    seeds = range(args.identity_seed, args.identity_seed + args.people)
    if args.sheet:
        shown = [make(seeds[:2]).frames[:, ::GLANCE] for make in CLIPS.values()]
        # A row for each person and kind of clip, a column for each latent frame.
        rows = torch.cat(shown).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        save_image(args.sheet, (rows.clamp(0, 1) * 255).round().byte().numpy())
    answers = ask([Reader.load(run) for run in args.runs], seeds)
    print(f"{args.people} people from seed {args.identity_seed} on\n\n{report(answers)}")


if __name__ == "__main__":
    main()
