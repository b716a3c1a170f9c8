"""Several people in one video, each in a mask, and guidance by the identity, on diffusers' Wan transformer."""

from contextlib import ExitStack

import pytest
import torch

from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.model import SlotID
from slotid_core.pipelines.wan import load_wan_transformer, sample

from .models import saved_model
from .wan_files import random_identity, write_dit

pytest.importorskip("diffusers")
DEPTH = 3
CONFIG = SlotIDConfig(
    Backbone("wan2.1", width=128, depth=DEPTH),
    EncoderConfig(width=32, depth=1, heads=2, slots=4, crop_size=64),
    ConditioningConfig(inner_width=16, heads=2, stride=1),
    identity_width=24,
)
GENERATOR = torch.Generator().manual_seed(4)
PROMPT, NEGATIVE = torch.randn(4, 32, generator=GENERATOR), torch.randn(4, 32, generator=GENERATOR)
LATENTS = torch.randn(2, 16, 3, 4, 8, generator=GENERATOR)
LEFT, RIGHT = torch.zeros(1, 32, 64), torch.zeros(1, 32, 64)
LEFT[:, :, :32], RIGHT[:, :, 32:] = 1, 1
# After the last block nothing mixes the tokens any more: what changes is what was conditioned.
LAST = {"first_block": DEPTH - 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    saved_model(folder / "slotid.safetensors", CONFIG)
    slotid = SlotID.load(folder / "slotid.safetensors")
    transformer = load_wan_transformer(write_dit(folder / "dit.safetensors", depth=DEPTH))
    return slotid, transformer, random_identity(slotid, 1), random_identity(slotid, 2)


def forward(world, *people):
    """The transformer's answer with people [(which, settings), ...]."""
    slotid, transformer, *identities = world
    with ExitStack() as stack, torch.no_grad():
        for which, settings in people:
            stack.enter_context(slotid.condition(transformer, identities[which], **settings))
        text = PROMPT.expand(2, -1, -1)
        return transformer(LATENTS, torch.tensor([500.0, 500.0]), text, return_dict=False)[0]


def test_a_mask_of_ones_is_no_mask_and_an_empty_one_no_identity(world):
    alone = forward(world, (0, {}))
    assert torch.equal(forward(world, (0, {"mask": torch.ones(5, 6)})), alone)
    assert torch.equal(forward(world, (0, {"mask": torch.zeros(5, 6)})), forward(world))
    assert not torch.equal(alone, forward(world))


def test_the_identity_acts_inside_the_mask_alone(world):
    plain, everywhere, masked = forward(world), forward(world, (0, LAST)), forward(world, (0, {**LAST, "mask": LEFT}))
    assert torch.equal(masked[..., 4:], plain[..., 4:])
    torch.testing.assert_close(masked[..., :4], everywhere[..., :4])
    assert ((masked - plain)[..., :4].abs().amax((1, 3, 4)) > 1e-4).all(), "in every latent frame of both videos"


def test_two_people_each_in_a_half(world):
    one, two = forward(world, (0, LAST)), forward(world, (1, LAST))
    both = forward(world, (0, {**LAST, "mask": LEFT}), (1, {**LAST, "mask": RIGHT}))
    swapped = forward(world, (1, {**LAST, "mask": LEFT}), (0, {**LAST, "mask": RIGHT}))
    torch.testing.assert_close(both, torch.cat([one[..., :4], two[..., 4:]], -1))
    torch.testing.assert_close(swapped, torch.cat([two[..., :4], one[..., 4:]], -1))


def test_an_animated_mask_acts_in_its_frames(world):
    """9 frames are 3 latent frames: only frames 5 to 8 are on, which are the last one."""
    mask = torch.zeros(9, 32, 64)
    mask[5:] = 1
    plain, everywhere, masked = forward(world), forward(world, (0, LAST)), forward(world, (0, {**LAST, "mask": mask}))
    assert torch.equal(masked[:, :, :2], plain[:, :, :2])
    torch.testing.assert_close(masked[:, :, 2], everywhere[:, :, 2])


def test_a_range_of_blocks_and_the_halves(world):
    plain, whole = forward(world), forward(world, (0, {}))
    parts = [forward(world, (0, {"last_block": 0})), forward(world, (0, LAST)), forward(world, (0, {"dynamics": 0.0}))]
    assert all(not torch.equal(part, plain) and not torch.equal(part, whole) for part in parts)
    assert torch.equal(forward(world, (0, {"first_block": DEPTH, "last_block": DEPTH})), plain)
    assert torch.equal(forward(world, (0, {"appearance": 0.0, "dynamics": 0.0})), plain)


def sampled(world, identity=True, calls=None, **settings):
    slotid, transformer, one, _ = world
    seen = [] if calls is None else calls
    handle = transformer.register_forward_pre_hook(lambda *_: seen.append(1))
    with ExitStack() as stack:
        stack.callback(handle.remove)
        if identity:
            stack.enter_context(slotid.condition(transformer, one))
        return sample(transformer, LATENTS[:1], PROMPT, NEGATIVE, steps=2, **settings)


@pytest.mark.parametrize(
    ("cfg", "identity_cfg", "expected"), [(3.0, 1.0, 2), (3.0, 0.0, 2), (3.0, 2.0, 3), (1.0, 2.0, 2), (1.0, 1.0, 1)]
)
def test_no_call_more_than_the_guidance_needs(world, cfg, identity_cfg, expected):
    calls = []
    sampled(world, calls=calls, cfg=cfg, identity_cfg=identity_cfg)
    assert len(calls) == 2 * expected


def test_identity_guidance_at_its_ends(world):
    plain = sampled(world, cfg=3.0)
    assert torch.equal(sampled(world, cfg=3.0, identity_cfg=1.0), plain)
    assert torch.equal(sampled(world, cfg=3.0, identity_cfg=0.0), sampled(world, identity=False, cfg=3.0))
    torch.testing.assert_close(sampled(world, cfg=3.0, identity_cfg=1.0 + 1e-6), plain, rtol=1e-3, atol=1e-3)
    more = sampled(world, cfg=3.0, identity_cfg=2.0)
    assert (more - plain).norm() > 0.01 * plain.norm()


def test_identity_guidance_is_the_formula(world):
    """One Euler step from noise: noise - v."""
    slotid, transformer, one, _ = world
    noise, time = LATENTS[:1], torch.tensor([1000.0])
    with torch.no_grad():
        text, negative = (transformer(noise, time, t[None], return_dict=False)[0] for t in (PROMPT, NEGATIVE))
        with slotid.condition(transformer, one):
            identity = transformer(noise, time, PROMPT[None], return_dict=False)[0]
            made = sample(transformer, noise, PROMPT, NEGATIVE, steps=1, cfg=3.0, identity_cfg=1.5)
    velocity = negative + 3.0 * (text - negative) + 4.5 * (identity - text)
    torch.testing.assert_close(made, noise - velocity, rtol=1e-4, atol=1e-4)
