"""The evaluation's picture of the demo world against the renderer, and the judges on people they have not seen."""

import math

import numpy as np
import pytest
import torch

from slotid_core.demo.clips import target_tracks
from slotid_core.demo.people import MARKS, TEST, TRAIN, VALIDATION, People, people
from slotid_core.demo.prompts import BACKGROUNDS, EXPRESSIONS, POSES, Prompt
from slotid_core.demo.renderer import Tracks, render
from slotid_core.errors import SlotIDError
from slotid_core.evaluation.accuracy import agreement, embedding_accuracy
from slotid_core.evaluation.design import Design
from slotid_core.evaluation.measures import LOOKS, SIGNATURE
from slotid_core.evaluation.metrics import Verification
from slotid_core.evaluation.probe import (
    EMBEDDING_FILE,
    PROBE_FILE,
    described,
    embed_frames,
    load_embedding,
    load_probe,
)
from slotid_core.evaluation.renders import embedding_frames, per_frame, render_probe_clips, words_of
from slotid_core.evaluation.study import to_side
from slotid_core.evaluation.targets import (
    HUES,
    KINDS,
    NUMERIC,
    SIDES,
    glimpsed,
    mirrored,
    standardised,
    targets_of,
    unstandardised,
)
from slotid_core.evaluation.visible import CLEAR_UNTIL, HIDDEN_FROM, hidden_side, poses_showing


def with_values(who, **changed):
    return People(who.seeds, {**who.values, **{k: torch.full((len(who),), float(v)) for k, v in changed.items()}})


def mark_seen(side, degrees, count=6):
    """How much a mole and an earring on this side change the picture [2] at a yaw, over several heads."""
    who, tracks = target_tracks(TEST[:count], 0, [Prompt("front", "neutral", "light")] * count, 1)
    tracks = Tracks(**{**vars(tracks), "yaw": torch.full_like(tracks.yaw, math.radians(degrees))})
    bare = dict.fromkeys(KINDS, 0)
    base = render(with_values(who, **bare), tracks)
    kinds = {f"mark_{side}_hue": 0.6}
    worn = [render(with_values(who, **{**bare, f"mark_{side}": kind, **kinds}), tracks) for kind in (1, 2)]
    return torch.tensor([(one - base).abs().sum() for one in worn])


@pytest.mark.parametrize("side", SIDES)
def test_sides_hide_where_the_renderer_hides_them(side):
    sign = 1 if side == "left" else -1
    frontal = mark_seen(side, 0)
    assert (mark_seen(side, sign * (HIDDEN_FROM + 1)) < 0.01 * frontal).all()
    assert (mark_seen(side, sign * CLEAR_UNTIL) >= 0.45 * frontal).all()
    assert (mark_seen(side, -sign * 60) > frontal).all()
    assert hidden_side(sign * 60.0) == side and hidden_side(-sign * 60.0) != side and hidden_side(20.0) is None
    # What a pose shows clearly includes the front and never the far end of the other way.
    far = {"left": "far right", "right": "far left"}[side]
    assert "front" in poses_showing(side) and far not in poses_showing(side) and len(poses_showing(side)) == 3


def test_a_mirrored_picture_has_the_mirrored_truths():
    prompts = [Prompt("far left", "smile", "red"), Prompt("right", "surprise", "blue")]
    who, tracks = target_tracks(TEST[:2], 0, prompts)
    truth = targets_of(who, per_frame(tracks), words_of(prompts))
    swapped = mirrored(truth, torch.tensor([True, True]))

    values = {name: unstandardised(name, swapped.numeric[:, i]) for i, name in enumerate(NUMERIC)}
    angles = torch.atan2(swapped.hues[..., 0], swapped.hues[..., 1]) / (2 * math.pi) % 1.0
    values |= {name: angles[:, i] for i, name in enumerate(HUES)}
    values |= {name: swapped.kinds[:, i].float() for i, name in enumerate(KINDS)}
    signs = {name: -getattr(tracks, name) for name in ("yaw", "roll", "x")}
    turned = Tracks(**{**vars(tracks), **signs, "light": tracks.light * torch.tensor([-1.0, 1.0, 1.0])})
    pictures = render(People(who.seeds, values), turned)
    assert (pictures - render(who, tracks).flip(3)).abs().mean() < 1e-4
    assert [tuple(POSES)[i] for i in swapped.words[:, 0]] == ["far right", "left"]
    again = mirrored(swapped, torch.tensor([True, True]))
    assert all(torch.equal(a, b) for a, b in zip(vars(again).values(), vars(truth).values(), strict=True))
    half = mirrored(truth, torch.tensor([False, True]))
    assert torch.equal(half.numeric[0], truth.numeric[0]) and torch.equal(half.numeric[1], swapped.numeric[1])


def test_a_few_frames_show_looks_and_not_movement():
    who, tracks = target_tracks(TEST[:1], 0, [Prompt("front", "smile", "red")])
    truth = targets_of(who, per_frame(tracks), words_of([Prompt("front", "smile", "red")]))
    seen = glimpsed(truth, torch.tensor([2, 9]))
    lost = {name for i, name in enumerate(NUMERIC) if truth.shown[0, i] and not seen.shown[0, i]}
    assert lost == {"smile_onset", "blink_rate", "bob_amplitude"} | (
        {"bob_frequency"} if who["bob_amplitude"] > 0.015 else set()
    )
    assert torch.equal(seen.tracks[0, 1], truth.tracks[0, 9]) and torch.equal(seen.numeric, truth.numeric)


def test_standardised_parameters_have_unit_variance():
    who = people(TRAIN[:3000])
    for name in NUMERIC:
        values = standardised(name, who[name])
        assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.05
        assert torch.allclose(unstandardised(name, values), who[name], atol=1e-5)


def test_a_study_shows_everything_equally_often():
    rows = Design(TEST.start, 25).rows()
    assert len(rows["person"]) == 125 and rows["number"].tolist()[:5] == [0, 1, 2, 3, 4]
    pairs = np.zeros((len(POSES), len(EXPRESSIONS)), int)
    np.add.at(pairs, (rows["pose"], rows["expression"]), 1)
    assert (pairs == np.array([5, 15, 5])).all()
    person = rows["person"] == TEST.start + 3
    assert sorted(rows["background"][person]) == list(range(len(BACKGROUNDS)))
    assert sorted(rows["pose"][person]) == list(range(len(POSES)))
    spots = np.zeros((len(EXPRESSIONS), len(BACKGROUNDS)), int)
    np.add.at(spots, (rows["expression"], rows["background"]), 1)
    assert (spots == np.array([[5], [15], [5]])).all()
    assert (np.abs(rows["yaw"] - np.array(list(POSES.values()))[rows["pose"]]) < 9).all()
    assert (np.abs(rows["start_yaw"]) >= 60).all()


def test_people_outside_the_ranges_are_refused_and_training_people_known():
    assert Design(TEST.start, 5).held_out and Design(VALIDATION.start, 5).held_out
    assert not Design(TRAIN[-3], 3).held_out
    for first, count in ((1_500_000, 4), (TEST[-1], 2), (TRAIN[-1], 2 + len(VALIDATION)), (TEST[0], 1)):
        with pytest.raises(SlotIDError):
            Design(first, count)


@pytest.mark.parametrize("path", [PROBE_FILE, EMBEDDING_FILE])
def test_judges_are_small_and_say_what_they_are(path):
    assert path.stat().st_size <= 1.5 * 2**20
    said = described(path)
    assert "training people only" in said["trained_on"] and "validation seed" in said["accuracy_on"]
    assert all(-1 <= value <= 1 for value in said["accuracy"].values()) and said["license"] == "Apache-2.0"


@pytest.fixture(scope="module")
def judged():
    """People whom no judge was trained on, their renders, and what the probe reads from them."""
    seeds = list(TEST[3000:3048])
    frames, _, words = render_probe_clips(seeds)
    return people(seeds), words, load_probe().read(frames)


def test_oracle_is_the_ceiling(judged):
    who, words, reading = judged
    found = agreement(reading, who, words)
    assert np.mean([found[name] for name in LOOKS]) > 0.75
    assert min(found[name] for name in ("skin_tone", "hair_hue")) > 0.9
    assert np.mean([found[f"{name} correlation"] for name in SIGNATURE]) > 0.9
    assert found["mark kind"] > 0.9 and found["mark hue"] > 0.85
    assert min(found[name] for name in ("pose", "expression", "background")) > 0.95


def test_wrong_person_is_the_floor(judged):
    who, words, reading = judged
    # Everybody is held against the next person, through the same code.
    others = People(who.seeds, {name: value.roll(1) for name, value in who.values.items()})
    found = agreement(reading, others, words)
    assert np.mean([found[name] for name in LOOKS]) < 0
    assert abs(np.mean([found[f"{name} correlation"] for name in SIGNATURE])) < 0.3
    assert found["mark kind"] < 0.6 and found["mark hue"] < 0.5


def test_the_embedding_tells_people_apart():
    seeds = list(TEST[3000:3012])
    frames, _, _ = embedding_frames(seeds)
    vectors = embed_frames(load_embedding(), frames).unflatten(0, (12, 10))
    gallery = torch.nn.functional.normalize(vectors[:, ::2].mean(1), dim=-1)
    scores = (vectors[:, 1::2].mean(1) @ gallery.T).numpy()
    off = ~np.eye(12, dtype=bool)

    def auc(rows):
        return Verification(scores[np.arange(12), rows], scores[off].reshape(12, 11)).auc(np.ones((1, 12)))[0]

    assert auc(np.arange(12)) > 0.99
    assert auc((np.arange(12) + 1) % 12) < 0.75


def test_the_embedding_knows_people_in_other_takes_and_poses():
    found = embedding_accuracy(load_embedding(), list(TEST[3000:3024]))
    assert {name: value for name, value in found.items() if name.startswith("auc") and value <= 0.98} == {}
    assert found["eer all"] < 0.03


def test_videos_of_another_shape_are_refused_and_large_ones_averaged():
    with pytest.raises(SlotIDError, match="17, 64, 64"):
        load_probe().read(torch.zeros(1, 9, 64, 64, 3))
    large = torch.rand(1, 17, 128, 128, 3)
    assert to_side(large).shape == (1, 17, 64, 64, 3) and to_side(large).dtype == torch.uint8
    assert abs(float(to_side(large)[0, 0, 0, 0, 0]) / 255 - float(large[0, 0, :2, :2, 0].mean())) < 1 / 255
    assert len(MARKS) == 3
