"""The readers of the comparison: equal in size, different in the one thing their name says."""

import pytest
import torch

from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.errors import SlotIDError
from slotid_core.training.variants import VARIANTS, new_variant, variant

CONFIG = SlotIDConfig(
    Backbone("wan2.1", 128, 2), EncoderConfig(32, 1, 2, slots=4, crop_size=64), ConditioningConfig(32, 2), 24
)
READERS = [name for name in VARIANTS if name != "oracle"]


def read(name, latents, seed=0):
    return new_variant(name, CONFIG, seed).encoder(latents)


@pytest.fixture
def clip():
    return torch.randn(2, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_all_have_the_same_number_of_parameters_and_the_same_first_weights():
    full = new_variant("full", CONFIG, 3).state_dict()
    for name in READERS:
        state = new_variant(name, CONFIG, 3).state_dict()
        assert state.keys() == full.keys()
        assert all(torch.equal(state[key], full[key]) for key in full)


@pytest.mark.parametrize("name", READERS)
def test_each_gives_the_full_set_of_tokens_with_a_gradient(name, clip):
    model = new_variant(name, CONFIG, 0)
    tokens, trace = model.encoder(clip)
    assert tokens.shape == (2, 8, 24)
    assert trace.plan.shape == (2, 3, 5, 16)
    tokens.square().sum().backward()
    projection = model.encoder.tokenizer.project.weight.grad
    assert projection.isfinite().all() and projection.abs().max() > 0


def test_no_two_readers_of_clips_agree(clip):
    names = [name for name in READERS if VARIANTS[name].reference == "clip"]
    tokens = {name: read(name, clip)[0] for name in names}
    for first in names:
        for second in names[names.index(first) + 1 :]:
            assert (tokens[first] - tokens[second]).abs().max() > 1e-4, (first, second)


def test_only_a_memory_knows_the_order_of_frames(clip):
    # With the trunk's temporal mixing out of the way, a mean and a set forget which frame came first.
    for name, ordered in [("mean", False), ("softmax", False), ("softmax_gru", True), ("full", True)]:
        model = new_variant(name, CONFIG, 0)
        model.encoder.tokenizer.blocks = torch.nn.ModuleList()
        torch.nn.init.zeros_(model.encoder.tokenizer.time_position.weight)
        forward, backward = (model.encoder(latents)[0] for latents in (clip, clip.flip(2)))
        assert ((forward - backward).abs().max() > 1e-4) == ordered, name


def test_routing_shares_tokens_out_and_softmax_does_not(clip):
    plans = {name: read(name, clip)[1].plan for name in ("full", "no_dustbin", "softmax_gru")}
    for name in ("full", "no_dustbin"):
        torch.testing.assert_close(plans[name].sum(2), torch.full((2, 3, 16), 1 / 16), atol=1e-6, rtol=0)
    assert (plans["softmax_gru"].sum(2) - 1 / 16).abs().max() > 1e-3
    assert plans["no_dustbin"][:, :, -1].abs().max() == 0
    assert plans["full"][:, :, -1].sum(-1).min() > 0.3


def test_a_still_reads_as_a_photo():
    tokens, _ = read("frontal", torch.randn(1, 16, 1, 8, 8))
    encoder = new_variant("frontal", CONFIG, 0).encoder
    assert torch.equal(tokens[0, 4:], encoder.out.no_dynamics)


def test_the_oracle_is_told_the_person_and_nothing_else():
    model = new_variant("oracle", CONFIG, 0, parameters=30)
    people = torch.rand(3, 30)
    tokens, _ = model.encoder(people)
    assert tokens.shape == (3, 8, 24)
    assert (tokens[0] - tokens[1]).abs().max() > 1e-4


def test_an_unknown_variant_is_refused_with_the_list():
    with pytest.raises(SlotIDError, match="softmax_gru"):
        variant("median")
