"""The demo world: who its people are, what they do, and how they are drawn."""

import itertools
import math

import pytest
import torch

from slotid_core.demo.clips import FPS, reference_clips, reference_tracks, target_clips, target_prompt, target_tracks
from slotid_core.demo.people import (
    DYNAMIC,
    MARKS,
    PARAMETERS,
    STATIC,
    TEST,
    TRAIN,
    VALIDATION,
    People,
    people,
    split_of,
)
from slotid_core.demo.prompts import BACKGROUNDS, POSES, Prompt, embed_empty, embed_prompt
from slotid_core.demo.renderer import render
from slotid_core.errors import SlotIDError


def with_values(who: People, **values: float) -> People:
    changed = {name: torch.full_like(who[name], value) for name, value in values.items()}
    return People(who.seeds, {**who.values, **changed})


def test_a_person_depends_on_the_seed_alone():
    together, alone = people(range(20)), people([13])
    assert all(torch.equal(together[name][13:14], alone[name]) for name in PARAMETERS)
    assert together.static().shape == (20, len(STATIC)) and together.dynamic().shape == (20, len(DYNAMIC))


def test_parameters_fill_their_ranges_and_stay_inside():
    crowd = people(range(400))
    for name, (low, high) in PARAMETERS.items():
        values = crowd[name]
        assert low <= values.min() and values.max() <= high, name
        assert values.min() < low + 0.05 * (high - low) and values.max() > high - 0.05 * (high - low), name


def test_identities_of_the_three_splits_are_disjoint():
    splits = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    assert len(TRAIN) >= 20_000 and min(len(VALIDATION), len(TEST)) >= 1_000
    for name, seeds in splits.items():
        assert {split_of(seeds[0]), split_of(seeds[-1])} == {name}
    edges = sorted((seeds.start, seeds.stop) for seeds in splits.values())
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(edges))
    with pytest.raises(SlotIDError, match="person seed 5000000"):
        people([5_000_000])


def test_the_marks_of_both_sides_are_independent():
    crowd = people(range(1800))
    table = torch.zeros(len(MARKS), len(MARKS))
    for left, right in zip(crowd["mark_left"].long(), crowd["mark_right"].long(), strict=True):
        table[left, right] += 1
    expected = len(crowd) / table.numel()
    # Chi-squared with 8 degrees of freedom: 26.1 is passed by chance once in a thousand.
    assert ((table - expected) ** 2 / expected).sum() < 26.1
    hues = torch.stack([crowd["mark_left_hue"], crowd["mark_right_hue"]])
    assert torch.corrcoef(hues)[0, 1].abs() < 0.08


@pytest.mark.parametrize("kind", ["mole", "earring"])
def test_a_mark_shows_on_its_own_side_of_the_picture(kind):
    who = with_values(people([3]), mark_left=0, mark_right=0, bob_amplitude=0)
    marked = with_values(who, mark_left=MARKS.index(kind), mark_left_hue=0.33)
    _, tracks = target_tracks([3], 0, [Prompt("front", "neutral", "dark")], 1)
    change = (render(marked, tracks) - render(who, tracks)).abs().sum((0, 1, 4))
    # The person's left is on the viewer's right.
    assert change[:, 36:].sum() > 1.0 and change[:, :28].sum() == 0.0


@pytest.mark.parametrize("size", [64, 96, 128])
def test_frames_have_the_asked_size_and_range(size):
    clip = target_clips([5], frames=2, size=size).frames
    assert clip.shape == (1, 2, size, size, 3) and clip.dtype == torch.float32
    assert clip.min() >= 0 and clip.max() <= 1 and clip.std() > 0.1


def test_sizes_show_the_same_picture():
    large = reference_clips([TEST[0]], frames=5, size=128).frames[0].permute(0, 3, 1, 2)
    small = reference_clips([TEST[0]], frames=5, size=64).frames[0].permute(0, 3, 1, 2)
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert -10 * math.log10((shrunk - small).square().mean()) > 28


def test_clips_depend_on_person_and_take_alone():
    first = reference_clips([1, 2], 4, size=32).frames
    assert torch.equal(first[1:], reference_clips([2], 4, size=32).frames)
    assert not torch.equal(first[1:], reference_clips([2], 5, size=32).frames)
    assert torch.equal(target_clips([1, 2], size=32).frames[:1], target_clips([1], size=32).frames)


def test_drawing_goes_wrong_aloud():
    who, tracks = reference_tracks([1], frames=2)
    with pytest.raises(SlotIDError, match="multiple of 8"):
        render(who, tracks, size=60)
    with pytest.raises(SlotIDError, match="one track per person"):
        render(people([1, 2]), tracks)


def test_reference_clips_sweep_slowly_to_both_sides():
    _, tracks = reference_tracks(range(50))
    yaw = torch.rad2deg(tracks.yaw)
    assert (yaw.amin(1) <= -60).all() and (yaw.amax(1) >= 60).all()
    steps = yaw.diff(dim=1)
    assert ((steps > 0).all(1) | (steps < 0).all(1)).all()
    assert steps.abs().max() < 6


def test_reference_clips_go_from_neutral_to_smile_to_surprise_with_a_blink():
    _, tracks = reference_tracks(range(50))
    smile, surprise = tracks.smile, tracks.surprise
    assert (smile[:, 0] == 0).all() and (surprise[:, 0] == 0).all()
    assert (smile.amax(1) > 0.95).all() and (surprise[:, -1] > 0.95).all() and (smile[:, -1] == 0).all()
    assert (smile.argmax(1) < surprise.argmax(1)).all()
    assert (tracks.blink.amax(1) > 0.9).all() and (tracks.blink.amin(1) == 0).all()


def test_a_few_reference_frames_are_spoiled_and_no_target_frame():
    counts = reference_clips(range(6), size=16).spoiled.sum(1)
    assert counts.min() >= 4 and counts.max() <= 6
    assert not target_clips(range(3), size=16).spoiled.any()


def test_targets_show_their_prompts():
    for pose, expression in [("far left", "smile"), ("right", "surprise"), ("front", "neutral")]:
        _, tracks = target_tracks(range(8), 0, [Prompt(pose, expression, "green")] * 8)
        assert (torch.rad2deg(tracks.yaw) - POSES[pose]).abs().max() < 9
        assert (tracks.smile.amax() > 0.5) == (expression == "smile")
        assert (tracks.surprise[:, -1] > 0.9).all() == (expression == "surprise")
        # Top and bottom are lighter and darker than the named colour.
        middle = tracks.background.mean(1)
        nearest = torch.cdist(middle, torch.tensor(list(BACKGROUNDS.values()))).argmin(1)
        assert (nearest == list(BACKGROUNDS).index("green")).all()


def test_prompts_of_takes_cover_the_vocabulary():
    prompts = {target_prompt(seed, 0) for seed in range(600)}
    assert len(prompts) == len(POSES) * 3 * len(BACKGROUNDS)


def test_how_a_person_moves_is_theirs_in_every_take():
    prompt = [Prompt("front", "smile", "red")]
    starts = {}
    for seed in range(40):
        who, tracks = target_tracks([seed], 0, prompt)
        starts[float(who["smile_onset"])] = int((tracks.smile[0] > 0.02).float().argmax())
    early, late = (sorted(starts.items())[i] for i in (0, -1))
    assert late[1] - early[1] >= 6
    bobs = []
    for seed in range(40):
        who, tracks = target_tracks([seed], 1, prompt)
        bobs.append((float(who["bob_amplitude"]), float(tracks.y[0].max() - tracks.y[0].min())))
    assert torch.corrcoef(torch.tensor(bobs).T)[0, 1] > 0.8


def test_smile_asymmetry_lifts_one_corner():
    who = with_values(people([3]), smile_onset=0, mark_left=0, mark_right=0, lip_fullness=0.05, bob_amplitude=0)
    _, tracks = target_tracks([3], 0, [Prompt("front", "smile", "light")])
    tracks = tracks.window(16, 1)
    lopsided = [render(with_values(who, smile_asymmetry=value), tracks)[0, 0] for value in (-0.9, 0.9)]
    change = (lopsided[0] - lopsided[1]).abs().sum(-1)
    assert change[36:].sum() > 5 and change[:32].sum() == 0
    assert FPS == 16


def test_prompt_embedding_golden_values():
    tokens = embed_prompt("front", "smile", "blue")
    assert tokens.shape == embed_empty().shape == (4, 4096) and tokens.dtype == torch.float32
    assert torch.allclose(tokens.var(), torch.tensor(1.0), atol=0.03)
    expected = torch.tensor(GOLDEN)
    assert torch.allclose(tokens[:, :3], expected, atol=1e-4)


GOLDEN = [
    [-1.0081, 1.4953, -0.5616],
    [-1.4005, -0.4533, 1.7118],
    [0.5616, -0.6834, -0.7104],
    [-0.5751, 0.7104, -0.1827],
]


def test_prompts_differ_only_where_their_words_do():
    one, other = embed_prompt("front", "smile", "blue"), embed_prompt("front", "smile", "red")
    assert torch.equal(one[:3], other[:3]) and not torch.allclose(one[3], other[3], atol=0.5)
    assert not any(torch.equal(a, b) for a in one for b in embed_empty())
    with pytest.raises(SlotIDError, match="one of neutral, smile, surprise"):
        embed_prompt("front", "angry", "blue")
