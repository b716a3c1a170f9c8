"""The measurement of merged identities: what partial clips hide, and the counting of marks.

The figures themselves: `python -m slotid_core.evaluation.merged`.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from slotid_core.demo.clips import reference_tracks
from slotid_core.demo.files import demo_files
from slotid_core.demo.people import MARKS, People, people
from slotid_core.demo.renderer import PER_FRAME, render
from slotid_core.demo.store import load_vae
from slotid_core.evaluation.design import Design
from slotid_core.evaluation.merged import CONDITIONS, MERGED, PARTS, VIEWS, Hits, measure, partial_clips, report
from slotid_core.evaluation.probe import Reading, load_embedding, load_probe
from slotid_core.evaluation.sampling import Guidance
from slotid_core.model import SlotID

SEEDS = list(range(1_000_700, 1_000_704))


@pytest.mark.parametrize(
    ("part", "hidden", "seen"), [("left views", "right", "left"), ("right views", "left", "right")]
)
def test_a_part_hides_one_mark_and_shows_the_other(part, hidden, seen):
    sign, take = PARTS[part]
    who, tracks = reference_tracks(SEEDS, take, sweep=(sign * VIEWS[0], sign * VIEWS[1]))
    some = replace(tracks, **{name: getattr(tracks, name)[:, ::8] for name in PER_FRAME})

    def frames(side, kind):
        marks = {f"mark_{side}": torch.full((len(SEEDS),), float(MARKS.index(kind)))}
        return render(People(who.seeds, {**who.values, **marks}), some)

    for kind in ("mole", "earring"):
        changed = {side: (frames(side, kind) - frames(side, "none")).abs().amax((2, 3, 4)) for side in (hidden, seen)}
        # Half a step of the 255 that a video file holds, and a little.
        assert changed[hidden].max() < 0.01
        assert (changed[seen] > 0.1).all()


def test_parts_are_takes_of_their_own():
    left, right = (partial_clips(SEEDS[:1], part) for part in PARTS)
    assert (left.tracks.yaw < 0).all() and (right.tracks.yaw > 0).all()
    assert not torch.equal(left.tracks.background, right.tracks.background)
    assert left.spoiled.any() and left.frames.shape == (1, 33, 64, 64, 3)


def test_marks_count_where_the_pose_shows_them():
    seeds, who = np.array(SEEDS), people(SEEDS)
    kinds = {name: who[name].long() for name in ("mark_left", "mark_right")}
    hues = {f"{name}_hue": who[f"{name}_hue"] for name in kinds}
    reading = Reading(hues, {**kinds, "mark_right": (kinds["mark_right"] + 1) % 3}, {}, torch.zeros(4), torch.zeros(4))
    poses = np.array(["far left", "far right", "front", "left"])
    hits = Hits.of([reading], seeds, poses)
    assert hits.right["left", "kind"].all() and not hits.right["right", "kind"].any()
    assert hits.right["right", "hue"].all()
    assert hits.counts["left", "kind"].tolist() == [True, False, True, True]
    assert hits.counts["right", "kind"].tolist() == [False, True, True, False]
    worn = kinds["mark_left"].numpy() > 0
    assert (hits.counts["left", "hue"] == (hits.counts["left", "kind"] & worn)).all()


def test_it_measures():
    """One step shows nothing but that every condition has videos of its own, and that the table holds them all."""
    pytest.importorskip("diffusers")
    from slotid_core.pipelines.wan import load_wan_transformer

    files = demo_files()
    models = SlotID.load(files.slot_id), load_wan_transformer(files.diffusion_model), load_vae(files.vae)
    results = measure(*models, load_probe(), load_embedding(), Design(SEEDS[0], 2), Guidance(steps=1))
    assert results.shown.shape == (2, len(CONDITIONS), 64, 64, 3)
    assert len(results.person) == len(results.likeness[MERGED]) == 10
    assert len({round(float(results.likeness[name].sum()), 6) for name in CONDITIONS}) == len(CONDITIONS)
    text = report(results)
    assert all(f"| {name} |" in text for name in CONDITIONS) and "of the full sweep" in text
