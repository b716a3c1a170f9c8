"""Two partial references of one person, merged: does the identity know both of what each of them hides?

One clip shows a person from their left alone and another from their right alone, both so far from the front (VIEWS)
that not a pixel of the other side's mark is in any frame. Their identities are merged by `merging.merge_identities`,
and videos are sampled with the merged identity, with either part, and with a full sweep of the same person, from the
same noise and prompts. What is judged is the mark of each side, kind and hue, in the poses that show that side clearly.

`as one clip` is the reference that has both parts' frames in it, every second one of each, read at once: what the same
views give without merging. In training the encoder has read halves of sweeps and been merged (`training/parts.py`), but
never clips like these, which stay on one side, nor of these people.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..demo.clips import DemoClips, reference_clips
from ..demo.files import demo_files
from ..demo.people import MARKS, people
from ..demo.store import load_vae
from ..demo.wan_vae import WanVAE
from ..identity import Identity, thumbnails_of
from ..merging import merge_identities
from .bootstrap import Bootstrap, Estimate, Group
from .design import REFERENCE_TAKE, VIDEOS, Design
from .measures import counted
from .metrics import Array, Metric, hue_hit, mean_of
from .networks import SIDE, EmbeddingNet
from .probe import Probe, Reading, embed_frames, embed_videos, load_embedding, load_probe
from .sampling import Guidance, decode_clips, encode_clips, noise_of, sample, text_of
from .study import GALLERY_FRAMES
from .targets import KINDS, SIDES
from .visible import poses_showing

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from ..model import SlotID

PEOPLE = 40
# In degrees, from the side towards the front. At 52 a trace of the other side's mole is left, at 55 nothing.
VIEWS = (70.0, 55.0)
FULL, MERGED, ONE_CLIP = "full sweep", "merged", "as one clip"
# Positive yaw shows the person's right side. All three references are takes of their own.
PARTS = {"left views": (-1.0, 1), "right views": (1.0, 2)}
CONDITIONS = (FULL, MERGED, ONE_CLIP, *PARTS)
GUIDANCE = Guidance(cfg=2.5, identity_cfg=2.5)
PEOPLE_AT_ONCE = 8
LATENTS = (16, 5, SIDE // 8, SIDE // 8)
# Of the full sweep's share, that the merged identity is to reach.
BAR = 0.95


def partial_clips(seeds: Sequence[int], part: str) -> DemoClips:
    """Reference clips of one side, "left views" or "right views"."""
    sign, take = PARTS[part]
    return reference_clips(seeds, take, sweep=(sign * VIEWS[0], sign * VIEWS[1]))


@torch.no_grad()
def read_identities(model: SlotID, vae: WanVAE, frames: Tensor) -> list[Identity]:
    """Identities of clips [B, T, 64, 64, 3] in [0, 1], without the papers of one."""
    made = []
    for clip, latents in zip(frames, encode_clips(vae, frames)[:, None], strict=True):
        tokens, trace = model.encoder(latents)
        bare = Identity(
            tokens=tokens[0], thumbnails=thumbnails_of(clip), coverage={},
            model_name=model.name, model_hash=model.hash, backbone=model.config.backbone, source="", source_hash="",
            frames_used=tuple(range(len(clip))), evidence=trace.evidence[0].exp(),
        )  # fmt: skip
        made.append(bare.with_routing(trace))
    return made


def identities_of(model: SlotID, vae: WanVAE, seeds: Sequence[int], full: DemoClips) -> dict[str, list[Identity]]:
    """Identities of every condition, by person."""
    parts = {name: partial_clips(seeds, name).frames for name in PARTS}
    made = {name: read_identities(model, vae, frames) for name, frames in {FULL: full.frames, **parts}.items()}
    left, right = parts.values()
    both = torch.cat([left[:, ::2], right[:, 1::2]], 1)
    merged = [merge_identities(pair) for pair in zip(*(made[name] for name in PARTS), strict=True)]
    return {**made, MERGED: merged, ONE_CLIP: read_identities(model, vae, both)}


def gallery(net: EmbeddingNet, clips: DemoClips) -> Tensor:
    """Unit vectors [B, 64] of reference clips, spoiled frames left out."""
    rows = []
    for frames, spoiled in zip(clips.frames, clips.spoiled, strict=True):
        clean = (~spoiled).nonzero()[:, 0]
        shown = clean[torch.linspace(0, len(clean) - 1, GALLERY_FRAMES).round().long()]
        rows.append(nn.functional.normalize(embed_frames(net, frames[shown]).mean(0), dim=0))
    return torch.stack(rows)


@dataclass(frozen=True)
class Hits:
    """What the probe says of marks in N videos: for each side and "kind" or "hue", whether it is right [N] bool, and
    whether it counts [N] bool: the pose shows the side clearly, and of hues, the person has a mark there."""

    right: dict[tuple[str, str], Array]
    counts: dict[tuple[str, str], Array]

    @classmethod
    def of(cls, readings: Sequence[Reading], seeds: Array, poses: Array) -> Hits:
        """From readings of N videos, of the people `seeds` [N] in the poses [N]."""
        who, right, counts = people(seeds.tolist()), {}, {}
        for side, kind in zip(SIDES, KINDS, strict=True):
            hue, clear = f"{kind}_hue", np.isin(poses, poses_showing(side))
            worn = who[kind].numpy() != MARKS.index("none")
            read = torch.cat([reading.kinds[kind] for reading in readings]).numpy()
            right[side, "kind"], counts[side, "kind"] = read == who[kind].numpy(), clear
            made = torch.cat([reading.numbers[hue] for reading in readings]).numpy()
            right[side, "hue"], counts[side, "hue"] = hue_hit(who[hue].numpy(), made), clear & worn
        return cls(right, counts)


@dataclass(frozen=True)
class Results:
    """All conditions' N videos of the same people, judged.

    Attributes:
        person: seed of each video [N].
        hits, likeness: by condition; cosine [N] to the person's full sweep.
        shown: a middle frame [people, conditions, 64, 64, 3] uint8.
    """

    person: Array
    hits: dict[str, Hits]
    likeness: dict[str, Array]
    shown: Tensor

    def marks(self, condition: str, what: str, sides: Sequence[str]) -> Estimate:
        """Share of right marks, "kind" or "hue", of some sides."""
        return Bootstrap(self.person).estimate(*self._measured(condition, what, sides))

    def difference(self, one: str, other: str, what: str, sides: Sequence[str]) -> Estimate:
        """What one condition has more of it than another, on the same people."""
        both = [(*self._measured(condition, what, sides), condition) for condition in (one, other)]
        return Bootstrap(self.person).difference(*both)

    def similarity(self, condition: str) -> Estimate:
        """Mean cosine."""
        return Bootstrap(self.person).estimate(mean_of(self.likeness[condition]), self._group(1))

    def _measured(self, condition: str, what: str, sides: Sequence[str]) -> tuple[Metric, Group]:
        hits = self.hits[condition]
        right = np.concatenate([hits.right[side, what] for side in sides])
        counts = np.concatenate([hits.counts[side, what] for side in sides])
        return counted(mean_of(right), counts), self._group(len(sides))

    def _group(self, times: int) -> Group:
        persons = np.tile(self.person, times)
        return Group(persons, np.zeros_like(persons))


def measure(
    model: SlotID,
    transformer: WanTransformer3DModel,
    vae: WanVAE,
    probe: Probe,
    embedding: EmbeddingNet,
    design: Design,
    guidance: Guidance = GUIDANCE,
) -> Results:
    """Sample and judge five videos of each person in each condition, with one noise for all conditions."""
    found: dict[str, list[tuple[Reading, Tensor]]] = {name: [] for name in CONDITIONS}
    shown = []
    for start in range(0, design.people, PEOPLE_AT_ONCE):
        places = range(start, min(start + PEOPLE_AT_ONCE, design.people))
        seeds = [design.seeds[place] for place in places]
        clips = reference_clips(seeds, REFERENCE_TAKE)
        identities, own = identities_of(model, vae, seeds, clips), gallery(embedding, clips)
        for i, place in enumerate(places):
            noise = noise_of([(seeds[i], number) for number in range(VIDEOS)], LATENTS)
            text = text_of(design.prompts(place))
            for name in CONDITIONS:
                tokens = identities[name][i].tokens.expand(VIDEOS, -1, -1)
                made = sample(transformer, noise, text, guidance, model=model, tokens=tokens)
                videos = decode_clips(vae, made)
                found[name].append((probe.read(videos), (embed_videos(embedding, videos) * own[i]).sum(-1)))
                shown.append(videos[place % VIDEOS, LATENTS[1] * 2])
    person = np.repeat(design.seeds, VIDEOS)
    poses = np.array([prompt.pose for place in range(design.people) for prompt in design.prompts(place)])
    return Results(
        person,
        {name: Hits.of([reading for reading, _ in each], person, poses) for name, each in found.items()},
        {name: torch.cat([cosine for _, cosine in each]).numpy() for name, each in found.items()},
        torch.stack(shown).unflatten(0, (design.people, len(CONDITIONS))),
    )


def report(results: Results) -> str:
    """The table, and what is asked of the merged identity."""
    head = ["reference", *(f"{side} mark, kind" for side in SIDES), "both, kind", "both, hue", "likeness"]
    lines = [head, ["---"] * len(head)]
    for name in CONDITIONS:
        kinds = [results.marks(name, "kind", [side]) for side in SIDES]
        both = [results.marks(name, what, SIDES) for what in ("kind", "hue")]
        lines.append([name, *map(_cell, [*kinds, *both, results.similarity(name)])])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = [table, ""]
    for what in ("kind", "hue"):
        merged, full = (results.marks(name, what, SIDES).value for name in (MERGED, FULL))
        parts = [results.difference(MERGED, name, what, SIDES) for name in PARTS]
        above = all(more.low > 0 for more in parts)
        over = " and ".join(f"{_cell(more)} over {name}" for name, more in zip(PARTS, parts, strict=True))
        near = f"merged is {merged / full:.0%} of the full sweep (at least {BAR:.0%}: {_yes(merged >= BAR * full)})"
        said.append(f"{what}: {near}, {over} (above both: {_yes(above)}).")
    return "\n".join(said)


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _yes(held: bool) -> str:
    return "yes" if held else "no"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    from ..model import SlotID
    from ..pipelines.wan import load_wan_transformer
    from ..sheets import save_image

    parser = argparse.ArgumentParser(prog="python -m slotid_core.evaluation.merged", description=__doc__.split("\n")[0])
    parser.add_argument("--identity-seed", type=int, default=Design().first, metavar="N", help="the first person")
    parser.add_argument("--people", type=int, default=PEOPLE, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument(
        "--sheet", metavar="FILE", help="also write a frame of each condition for the first people (.png)"
    )
    args = parser.parse_args(arguments)
    files = demo_files()
    model, transformer = SlotID.load(files.slot_id), load_wan_transformer(files.diffusion_model)
    judges = load_probe(), load_embedding()
    design = Design(args.identity_seed, args.people)
    results = measure(model, transformer, load_vae(files.vae), *judges, design)
    print(f"{args.people} people from seed {args.identity_seed} on, {VIDEOS} videos each\n\n{report(results)}")
    if args.sheet:
        # A row for each person, a column for each condition.
        save_image(args.sheet, results.shown[:8].transpose(1, 2).flatten(2, 3).flatten(0, 1).numpy())


if __name__ == "__main__":
    main()
