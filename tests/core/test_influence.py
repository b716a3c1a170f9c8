"""How hard, when and where: settings, their words, masks over space and time, and guidance by two conditions."""

import math

import pytest
import torch

from slotid_core.conditioning import apply_residual
from slotid_core.errors import SlotIDError
from slotid_core.guidance import answers, towards_identity
from slotid_core.influence import PRESETS, Influence, Person, advice, describe, settings_of
from slotid_core.masks import checked_mask, described, latent_mask, overlap, token_weights, within

from .models import tiny_model

TOKENS = torch.randn(8, 24, generator=torch.Generator().manual_seed(4))
HIDDEN = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(3))


def residual(influence, tokens=TOKENS):
    conditioning = tiny_model().conditioning
    prepared = influence.weighed(conditioning.prepare(tokens))
    return conditioning.residual(1, HIDDEN, prepared, torch.ones(2))


def test_at_1_and_1_the_halves_are_untouched():
    prepared = tiny_model().conditioning.prepare(TOKENS)
    assert Influence().weighed(prepared) is prepared


def test_the_halves_contribute_by_their_weights():
    appearance, dynamics = residual(Influence(dynamics=0.0)), residual(Influence(appearance=0.0))
    assert appearance.norm() > 0.1 and dynamics.norm() > 0.1
    torch.testing.assert_close(appearance + dynamics, residual(Influence()), rtol=1e-4, atol=1e-6)
    mixed = residual(Influence(appearance=0.4, dynamics=1.5))
    torch.testing.assert_close(mixed, 0.4 * appearance + 1.5 * dynamics, rtol=1e-4, atol=1e-6)
    assert (residual(Influence(appearance=0.0, dynamics=0.0)) == 0).all()


def test_a_half_at_0_adds_nothing_of_its_own():
    """What the dynamics tokens' values would add is gone whatever they are; the first half is that of appearance."""
    conditioning = tiny_model().conditioning
    values = conditioning.prepare(TOKENS).values[1]
    weighed = Influence(dynamics=0.0).weighed(conditioning.prepare(TOKENS)).values[1]
    assert torch.equal(weighed[:, :, :4], values[:, :, :4]) and (weighed[:, :, 4:] == 0).all()


def test_blocks_are_those_in_the_range():
    conditioned = (1, 3, 5, 7)
    assert Influence().blocks(conditioned, 8) == conditioned
    assert Influence(first_block=3, last_block=5).blocks(conditioned, 8) == (3, 5)
    assert Influence(first_block=4, last_block=4).blocks(conditioned, 8) == ()
    assert Influence(first_block=4, last_block=-1).blocks(conditioned, 8) == (5, 7)


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0.0, 1.0, range(10)), (0.2, 0.6, range(2, 6)), (0.31, 0.39, range(4, 4))]
)
def test_steps_are_those_in_the_range(start, end, expected):
    assert Influence(start=start, end=end).steps(10) == expected


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"strength": math.nan}, "strength = nan"),
        ({"dynamics": math.inf}, "dynamics = inf"),
        ({"start": 0.5, "end": 0.5}, "start = 0.5, end = 0.5"),
        ({"end": 1.1}, "end = 1.1"),
        ({"first_block": -1}, "first_block = -1"),
        ({"first_block": 5, "last_block": 4}, "first_block = 5, last_block = 4"),
        ({"last_block": -2}, "last_block = -2"),
    ],
)
def test_refuses_what_is_no_setting(change, found):
    with pytest.raises(SlotIDError) as caught:
        Influence(**change)
    assert found in caught.value.found


def test_it_says_why_nothing_will_change():
    assert Influence().nothing() == ""
    assert Influence(strength=0.0).nothing() == "strength is 0"
    assert "both 0" in Influence(appearance=0.0, dynamics=0.0).nothing()


def test_it_says_what_it_will_do():
    influence = Influence(strength=0.8, start=0.2, first_block=2, dynamics=0.5)
    person = Person("kim.mp4", influence, influence.blocks((1, 3, 5, 7), 8), torch.eye(2).unsqueeze(0))
    assert describe(person, 8) == [
        "strength 0.8, appearance 1, dynamics 0.5",
        "blocks: 3 of 8 (blocks 3 to 7, every 2, counted from 0)",
        "steps: 20% to 100% of the sampling (steps 5 to 20 of 20)",
        "mask: 50% of the picture, still",
    ]
    whole = describe(Person("kim.mp4", Influence(), (0, 1, 2)), 3)
    assert whole[1:] == [
        "blocks: 3 of 3 (blocks 0 to 2, counted from 0)", "steps: all", "mask: none, the whole picture",
    ]  # fmt: skip


def test_it_warns_of_what_is_not_meant():
    left, right = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    left[:, :, :4], right[:, :, 4:] = 1, 1
    one, two = Person("kim", Influence(), (0,), left), Person("robin", Influence(), (0,), right)
    assert advice([one, two]) == [] and advice([one, one]) == []
    assert "in 100% of the smaller mask" in advice([one, two._replace(mask=left)])[0]
    assert "in 100% of the smaller mask" in advice([one, two._replace(mask=None)])[0]
    assert "Persons 1 and 2 both act everywhere" in advice([one._replace(mask=None), two._replace(mask=None)])[0]
    assert "no step of a run of 20" in advice([one._replace(influence=Influence(start=0.96))])[0]


def test_presets_are_plain_settings():
    assert settings_of(PRESETS["loosen pose"]) == "strength 0.8, start 0.2"
    assert settings_of(PRESETS["motion only"]) == "appearance 0"
    assert all(settings_of(preset) for preset in PRESETS.values())


def test_a_still_mask_serves_every_latent_frame():
    mask = torch.zeros(1, 32, 64)
    mask[:, :, :32] = 1
    latent = latent_mask(mask, (3, 4, 8))
    assert latent.shape == (3, 4, 8) and (latent[:, :, :4] == 1).all() and (latent[:, :, 4:] == 0).all()


def test_an_animated_mask_follows_the_latent_frames():
    """Frame 0 alone, then the mean of every four; 9 frames are 3 latent frames."""
    mask = torch.arange(9.0).div(8).view(9, 1, 1).expand(9, 16, 16)
    latent = latent_mask(mask, (3, 2, 2))
    torch.testing.assert_close(latent[:, 0, 0], torch.tensor([0.0, 2.5 / 8, 6.5 / 8]))


def test_a_mask_of_another_length_is_stretched_over_the_video():
    moving = torch.zeros(5, 8, 8)
    moving[:3, :, :4], moving[3:, :, 4:] = 1, 1
    latent = latent_mask(moving, (5, 2, 2))
    assert (latent[0, :, 0] == 1).all() and (latent[0, :, 1] == 0).all()
    assert (latent[-1, :, 0] == 0).all() and (latent[-1, :, 1] == 1).all()
    torch.testing.assert_close(latent.sum(-1), torch.ones(5, 2))


def test_tokens_are_in_the_backbones_order():
    latent = torch.arange(2 * 4 * 4).float().view(2, 4, 4)
    weights = token_weights(latent, (1, 2, 2))
    want = [
        latent[t, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for t in range(2) for r in range(2) for c in range(2)
    ]
    torch.testing.assert_close(weights, torch.stack(want))


def test_an_odd_side_counts_what_is_there():
    weights = token_weights(torch.ones(1, 3, 5), (1, 2, 2))
    assert weights.shape == (2 * 3,) and (weights == 1).all()
    edge = torch.zeros(1, 3, 5)
    edge[:, :, 4] = 1
    assert torch.equal(token_weights(edge, (1, 2, 2)), torch.tensor([0.0, 0.0, 1.0] * 2))


def test_a_small_mask_does_not_vanish():
    mask = torch.zeros(1, 256, 256)
    mask[:, 100, 100] = 1
    assert latent_mask(mask, (1, 4, 4)).sum() > 0
    assert described(mask) == "under 1% of the picture, still"


@pytest.mark.parametrize(
    ("area", "t", "y", "x"),
    [
        ((2, 3, 1, 1), slice(None), slice(1, 3), slice(1, 4)),
        ((1, 2, 3, 1, 0, 1), slice(1, 2), slice(0, 2), slice(1, 4)),
        ((9, 9, 2, 1), slice(None), slice(2, None), slice(1, None)),
    ],
)
def test_an_area_is_cut_as_the_host_cuts_latents(area, t, y, x):
    """Sizes, then offsets, of the last sides; what is beyond the edge is left out."""
    latent = torch.arange(2 * 4 * 5).float().view(2, 4, 5)
    assert torch.equal(within(latent, area), latent[t, y, x])


def test_masks_are_described_and_compared():
    left, right = torch.zeros(1, 64, 64), torch.zeros(9, 64, 64)
    left[:, :, :32], right[:, :, 32:] = 1, 1
    right[4:] = 0
    assert described(left) == "50% of the picture, still"
    assert described(right) == "0% to 50% of the picture, 9 frames"
    assert overlap(left, right) == 0 and overlap(left, left) == pytest.approx(1)
    assert overlap(left, torch.zeros(1, 8, 8)) == 0


def test_refuses_what_is_no_mask():
    assert checked_mask(torch.full((4, 6), 2.0)).equal(torch.ones(1, 4, 6))
    for wrong, found in ((torch.zeros(1, 2, 3, 4), "[1, 2, 3, 4]"), (torch.zeros(0, 4, 4), "[0, 4, 4]")):
        with pytest.raises(SlotIDError) as caught:
            checked_mask(wrong)
        assert found in caught.value.found
    with pytest.raises(SlotIDError, match="NaN"):
        checked_mask(torch.full((1, 4, 4), math.nan))


def added(weights, monkeypatch=None, part=None):
    """What is added to tokens 2 to 11 of row 1, with weights."""
    if part:
        monkeypatch.setattr("slotid_core.conditioning.PART", part)
    conditioning = tiny_model().conditioning
    prepared = conditioning.prepare(TOKENS)
    with torch.no_grad():
        return apply_residual(
            HIDDEN,
            lambda some, rows: conditioning.residual(1, some, prepared, torch.ones(2)[rows]),
            rows=[slice(1, 2)],
            tokens=slice(2, 11),
            strength=0.7,
            weights=weights,
        )


def test_weights_scale_the_residual_of_each_token(monkeypatch):
    weights = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 0.25, 0.0, 1.0, 0.0])
    plain, masked = added(None), added([weights])
    torch.testing.assert_close(masked[1, 2:11], HIDDEN[1, 2:11] + weights[:, None] * (plain - HIDDEN)[1, 2:11])
    untouched = (weights == 0).nonzero().flatten() + 2
    assert torch.equal(masked[1, untouched], HIDDEN[1, untouched]) and torch.equal(masked[0], HIDDEN[0])
    assert torch.equal(added([torch.ones(9)]), plain)
    torch.testing.assert_close(added([weights], monkeypatch, part=4 * 32), masked)


@pytest.mark.parametrize(
    ("cfg", "identity_cfg", "expected"),
    [
        (5.0, 1.0, ("identity", "negative")),
        (5.0, 0.0, ("text", "negative")),
        (5.0, 2.0, ("identity", "text", "negative")),
        (1.0, 2.0, ("identity", "text")),
        (1.0, 1.0, ("identity",)),
        (1.0, 0.0, ("text",)),
    ],
)
def test_only_answers_that_count_are_asked_for(cfg, identity_cfg, expected):
    assert answers(cfg, identity_cfg) == expected


def test_guidance_is_the_composition_of_two_conditions():
    negative, text, identity = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)).double()
    cfg, scale = 4.0, 1.7
    ours = negative + cfg * (towards_identity(identity, text, scale) - negative)
    torch.testing.assert_close(ours, negative + cfg * (text - negative) + cfg * scale * (identity - text))
    with pytest.raises(SlotIDError, match="identity_cfg = nan"):
        answers(2.0, math.nan)
