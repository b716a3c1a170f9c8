"""Two people in one video, each in a mask: does each half of the picture carry its own identity?

The demo world's video model knows pictures of 64 pixels with one head in the middle, and makes an empty background of
anything wider. A frame of two heads is therefore sampled as ComfyUI's context windows over the width do it (dim 4,
length 8, overlap 2; MultiDiffusion, Bar-Tal et al., arXiv 2302.08113): 112 x 64 pixels in two windows of 64, whose
velocities are averaged where they overlap, in every step. Both identities are in the model all the time. The masks
alone say who is where: the left half of the frame for one, the right half for the other, each window with its part of
them. The window's margin over the middle sees a little of the other one's mask, and the rest of it does not: this shows
that masks put identities where they belong, and not that one window could hold two faces.

The probe reads the 64 pixels of each window. Which of the two people a half carries is the likelier one, given what the
probe reads: what it reads of a person in videos of this model is fitted beforehand, on other people, each alone in a
picture (a line and a spread for every look, so that looks the model does not carry do not count).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..demo.clips import reference_clips
from ..demo.files import demo_files
from ..demo.people import VALIDATION, people
from ..demo.store import load_vae
from ..demo.wan_vae import WanVAE
from ..identity import Identity
from ..pipelines.diffusers_adapter import condition_transformer
from ..pipelines.wan import TIME_SCALE, flow_times
from .design import REFERENCE_TAKE, VIDEOS, Design
from .measures import LOOKS
from .models import identity_tokens
from .networks import SIDE
from .probe import Probe, Reading, load_probe
from .sampling import Guidance, decode_clips, noise_of, sample, text_of
from .targets import HUES, standardised

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from ..model import SlotID

PAIRS = 100
# People by whom the judge is fitted: far from those whom training's own samples show.
CALIBRATION, CALIBRATED = VALIDATION.start + 8000, 160
LATENT_FRAMES = 5
STRIDE = 8
WINDOW, OVERLAP = SIDE // STRIDE, 2
WIDTH = 2 * WINDOW - OVERLAP
WINDOWS = (slice(0, WINDOW), slice(WIDTH - WINDOW, WIDTH))
BAR = 0.95


@dataclass(frozen=True)
class Shares:
    """Shares of halves, over pairs of people.

    Attributes:
        right: with the masks on, that carry the identity of their own mask.
        swapped: with the masks swapped, that carry the identity of their own mask.
        unmasked: without masks, that carry the identity whose mask would be there; about a half.
        alone: with only this one identity in the model, everywhere, that carry it: as well as the model and the probe
            can do.
        halves: how many halves each share is over.
    """

    right: float
    swapped: float
    unmasked: float
    alone: float
    halves: int

    def __str__(self) -> str:
        return (
            f"right identity in its half {self.right:.1%}, masks swapped {self.swapped:.1%} "
            f"(no masks {self.unmasked:.1%}, each person alone {self.alone:.1%}; {self.halves} halves)"
        )


def half_masks() -> tuple[Tensor, Tensor]:
    """Masks [1, 64, 112] of the frame's left and right half."""
    left = torch.zeros(1, SIDE, WIDTH * STRIDE)
    left[:, :, : WIDTH * STRIDE // 2] = 1
    return left, 1 - left


@torch.no_grad()
def sample_wide(
    transformer: WanTransformer3DModel,
    model: SlotID,
    persons: Sequence[tuple[Identity, Tensor | None]],
    noise: Tensor,
    text: Tensor,
    guidance: Guidance,
) -> Tensor:
    """Noise [N, 16, F, 8, 14] to latents of the same shape: one video of two windows.

    Args:
        persons: identities with their masks [1, 64, 112]; None is everywhere.
        text: [N, 4, 4096].
        guidance: steps and shift; its scales are not used.
    """
    latents, count = noise.to(transformer.device), torch.zeros(WIDTH, device=transformer.device)
    for window in WINDOWS:
        count[window] += 1
    text = text.to(transformer.device, transformer.dtype)
    for time, following in pairwise(flow_times(guidance.steps, guidance.shift)):
        velocity = torch.zeros_like(latents)
        for window in WINDOWS:
            with ExitStack() as carried:
                for identity, mask in persons:
                    part = None if mask is None else mask[..., window.start * STRIDE : window.stop * STRIDE]
                    carried.enter_context(condition_transformer(model, transformer, identity, mask=part))
                velocity[..., window] += transformer(
                    hidden_states=latents[..., window].to(transformer.dtype),
                    timestep=torch.full((len(text),), time * TIME_SCALE, device=latents.device),
                    encoder_hidden_states=text,
                    return_dict=False,
                )[0].float()
        latents = latents + (following - time) * velocity / count
    return latents.cpu()


def halves(videos: Tensor) -> tuple[Tensor, Tensor]:
    """Frames [N, T, 64, 112, 3] to what the left and the right window show, [N, T, 64, 64, 3] each."""
    return tuple(videos[:, :, :, window.start * STRIDE : window.stop * STRIDE] for window in WINDOWS)


@dataclass(frozen=True)
class Judge:
    """Which of two people a video shows, by what the probe reads of their looks.

    For each of K features of looks the reading is taken for normal around slope * truth + offset.

    Attributes:
        slope, offset, variance: [K].
    """

    slope: Tensor
    offset: Tensor
    variance: Tensor

    @classmethod
    def fit(cls, reading: Reading, seeds: Sequence[int]) -> Judge:
        """From readings of N videos of known people, one each."""
        made, true = _features(reading.numbers), _features(people(list(seeds)).values)
        spread, mean = made - made.mean(0), true.mean(0)
        slope = (spread * (true - mean)).mean(0) / (true - mean).square().mean(0)
        offset = made.mean(0) - slope * mean
        return cls(slope, offset, (made - slope * true - offset).square().mean(0))

    def likelier(self, reading: Reading, seeds: tuple[int, int]) -> Tensor:
        """Of two people the one each of N videos shows: [N] of 0 and 1."""
        expected = self.slope * _features(people(list(seeds)).values) + self.offset
        made = _features(reading.numbers)[:, None]
        return ((made - expected).square() / self.variance).sum(-1).argmin(1)


def _features(values: Mapping[str, Tensor]) -> Tensor:
    """Looks of N people as numbers [N, K]: standardised, hues as places on the colour circle; marks left out."""
    columns = []
    for name in LOOKS:
        if name in HUES:
            angle = 2 * math.pi * values[name].float()
            columns += [angle.sin(), angle.cos()]
        else:
            columns.append(standardised(name, values[name].float()))
    return torch.stack(columns, -1)


def calibrated_judge(
    model: SlotID, transformer: WanTransformer3DModel, vae: WanVAE, probe: Probe, guidance: Guidance, count: int
) -> Judge:
    """The judge of this model's videos, from people of the validation range, each alone in a video of 64 pixels."""
    design = Design(CALIBRATION, count)
    clips = reference_clips(design.seeds, REFERENCE_TAKE, size=SIDE)
    tokens = identity_tokens(model, "full", vae, clips, REFERENCE_TAKE)
    noise = noise_of([(seed, 0) for seed in design.seeds], (16, LATENT_FRAMES, SIDE // STRIDE, SIDE // STRIDE))
    text = text_of([design.prompts(place)[place % VIDEOS] for place in range(count)])
    videos = decode_clips(vae, sample(transformer, noise, text, guidance, model=model, tokens=tokens))
    return Judge.fit(probe.read(videos), design.seeds)


def measure_pairs(
    model: SlotID,
    transformer: WanTransformer3DModel,
    vae: WanVAE,
    probe: Probe,
    judge: Judge,
    guidance: Guidance,
    *,
    first: int,
    pairs: int,
) -> tuple[Shares, Tensor]:
    """Sample and judge pairs of neighbouring people, with one prompt and one noise for all videos of a pair.

    Args:
        first: seed of the first person; 2 * pairs people follow.

    Returns:
        The shares; for each pair its video and the one with the masks swapped: [pairs, 2, 17, 64, 112, 3] uint8.
    """
    design, (left, right) = Design(first, 2 * pairs), half_masks()
    hits: dict[str, list[Tensor]] = {}
    shown = []
    for pair in range(pairs):
        seeds = (design.seeds[2 * pair], design.seeds[2 * pair + 1])
        clips = reference_clips(list(seeds), REFERENCE_TAKE, size=SIDE)
        one, other = (_identity(model, tokens) for tokens in identity_tokens(model, "full", vae, clips, REFERENCE_TAKE))
        number = pair % VIDEOS
        noise = noise_of([(seeds[0], number)], (16, LATENT_FRAMES, SIDE // STRIDE, WIDTH))
        text = text_of([design.prompts(2 * pair)[number]])
        # Who is in the model and where, and which of the two should be seen on the left and on the right.
        arrangements = [
            ("right", [(one, left), (other, right)], (0, 1)),
            ("swapped", [(other, left), (one, right)], (1, 0)),
            ("unmasked", [(one, None), (other, None)], (0, 1)),
            ("alone", [(one, None)], (0, 0)),
            ("alone", [(other, None)], (1, 1)),
        ]
        for name, persons, expected in arrangements:
            video = decode_clips(vae, sample_wide(transformer, model, persons, noise, text, guidance))
            seen = [judge.likelier(probe.read(half), seeds) for half in halves(video)]
            hits.setdefault(name, []).extend(found == who for found, who in zip(seen, expected, strict=True))
            if name in ("right", "swapped"):
                shown.append(video)
    shares = {name: float(torch.cat(found).float().mean()) for name, found in hits.items()}
    return Shares(**shares, halves=2 * pairs), torch.cat(shown).unflatten(0, (pairs, 2))


def _identity(model: SlotID, tokens: Tensor) -> Identity:
    """Tokens [2S, D_id] as an identity, without the picture and the papers of one."""
    return Identity(
        tokens=tokens, thumbnails=torch.zeros(0, SIDE, SIDE, 3, dtype=torch.uint8), coverage={}, model_name=model.name,
        model_hash=model.hash, backbone=model.config.backbone, source="", source_hash="", frames_used=(),
    )  # fmt: skip


def main() -> None:
    from ..model import SlotID
    from ..pipelines.wan import load_wan_transformer
    from ..sheets import save_image

    parser = argparse.ArgumentParser(description="Measure two people in one video by masks, on the demo models.")
    parser.add_argument("--identity-seed", type=int, default=Design().first, metavar="N", help="the first person")
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help="pairs of people (default: %(default)s)")
    parser.add_argument("--sheet", metavar="FILE", help="also write the middle frames of the first pairs (.png)")
    args = parser.parse_args()
    files = demo_files()
    model, transformer = SlotID.load(files.slot_id), load_wan_transformer(files.diffusion_model)
    models = (model, transformer, load_vae(files.vae), load_probe())
    judge = calibrated_judge(*models, Guidance(), CALIBRATED)
    shares, videos = measure_pairs(*models, judge, Guidance(), first=args.identity_seed, pairs=args.pairs)
    print(shares)
    print(f"At least {BAR:.0%} of both: {'yes' if min(shares.right, shares.swapped) >= BAR else 'no'}.")
    if args.sheet:
        middle = videos[:8, :, videos.shape[2] // 2]
        # A row for each pair: the masks on, and swapped.
        save_image(args.sheet, middle.transpose(1, 2).flatten(2, 3).flatten(0, 1).numpy())


if __name__ == "__main__":
    main()
