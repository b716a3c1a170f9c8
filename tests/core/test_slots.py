"""The encoder: shapes, what a photo gives, what saliency and the dustbin do, gradients."""

import dataclasses

import pytest
import torch

from slotid_core.slots import IdentityEncoder, weighed
from slotid_core.tokens import patchify

from .models import TINY


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return IdentityEncoder(TINY).eval()


def latents(frames=3, size=8, batch=2, seed=0):
    return torch.randn(batch, 16, frames, size, size, generator=torch.Generator().manual_seed(seed))


def test_patchify_keeps_every_value_in_its_patch():
    x = torch.arange(2 * 3 * 2 * 4 * 6).view(2, 3, 2, 4, 6)
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 2, 6, 12)
    torch.testing.assert_close(tokens[1, 1, 4], x[1, :, 1, 2:4, 2:4].flatten())


@pytest.mark.parametrize(("frames", "size"), [(1, 8), (2, 8), (3, 4), (9, 16)])
def test_shapes(encoder, frames, size):
    tokens, trace = encoder(latents(frames, size))
    assert tokens.shape == (2, 2 * TINY.encoder.slots, TINY.identity_width)
    assert trace.plan.shape == (2, frames, TINY.encoder.slots + 1, (size // 2) ** 2)
    assert trace.grid == (size // 2, size // 2)
    torch.testing.assert_close(trace.plan.sum((-2, -1)), torch.ones(2, frames))


def test_batch_rows_do_not_mix(encoder):
    x = latents()
    torch.testing.assert_close(encoder(x)[0][1:], encoder(x[1:])[0], rtol=1e-5, atol=1e-5)


def test_photo_gets_the_learned_no_dynamics_tokens(encoder):
    slots = TINY.encoder.slots
    one, other = encoder(latents(1, seed=0))[0], encoder(latents(1, seed=1))[0]
    torch.testing.assert_close(one[:, slots:], encoder.out.no_dynamics.expand(2, -1, -1))
    assert not torch.equal(one[:, :slots], other[:, :slots])


def test_order_of_frames_changes_the_dynamics(encoder):
    x, slots = latents(5), TINY.encoder.slots
    forward, backward = encoder(x)[0], encoder(x.flip(2))[0]
    assert (forward[:, slots:] - backward[:, slots:]).abs().max() > 1e-3


def test_saliency_zero_drops_a_token(encoder):
    saliency = torch.ones(2, 3, 4, 4)
    saliency[:, :, 0, 0] = 0
    _, trace = encoder(latents(), saliency)
    assert (trace.plan[..., 0] == 0).all()
    torch.testing.assert_close(trace.plan.sum(-2)[..., 1:], torch.full((2, 3, 15), 1 / 15))


def test_dustbin_takes_the_mass_it_is_given():
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, encoder=dataclasses.replace(TINY.encoder, eps=1.0, iterations=50))
    encoder = IdentityEncoder(config)
    encoder.reader.router.dustbin_logit.data.fill_(2.0)
    _, trace = encoder(latents())
    mass = torch.sigmoid(torch.tensor(2.0)).item()
    torch.testing.assert_close(trace.plan[:, :, -1].sum(-1), torch.full((2, 3), mass))
    assert trace.marginal_error.max() < 1e-4


def test_every_parameter_learns(encoder):
    tokens = torch.cat([encoder(latents())[0], encoder(latents(1))[0]])
    (tokens * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
    silent = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def softmax_over_frames(reader, tokens, log_b):
    """What an untrained reader holds: each frame as much as it matches, all of them at once."""
    keys, values = reader.router.keys_values(tokens)
    start = reader.initial.expand(len(tokens), -1, -1)
    reads = [reader.router(start, keys[:, t], values[:, t], log_b[:, t]) for t in range(tokens.shape[1])]
    found = torch.stack([torch.zeros_like(reads[0].found), *(read.found for read in reads)])
    new = torch.stack([torch.zeros_like(start), *(read.out.tanh() for read in reads)])
    shares = found.double().softmax(0).repeat_interleave(start.shape[-1] // found.shape[-1], -1)
    return (shares * new).sum(0), found.double().logsumexp(0).mean(-1)


def test_an_untrained_reader_weighs_frames_as_a_softmax_over_all_of_them_does(encoder):
    reader = encoder.reader
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(2, 5, 16, TINY.encoder.width, generator=generator)
    log_b = torch.rand(2, 5, 16, generator=generator).log_softmax(-1)
    with torch.no_grad():
        reader.router.eps = 1.0  # at 0.2 some odds are beyond where the gate is taken to be certain
        held, evidence = softmax_over_frames(reader, tokens, log_b)
        read = reader(tokens, log_b)
        torch.testing.assert_close(read.states[:, -1], reader.state_of(held.float()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.evidence, evidence.float(), atol=1e-5, rtol=1e-5)


def test_evidence_grows_with_what_is_found(encoder):
    x = latents(5)
    part, whole = encoder(x[:, :, :3])[1].evidence, encoder(x)[1].evidence
    assert part.shape == (2, TINY.encoder.slots) and (part >= 0).all() and (whole >= 0).all()
    reader = encoder.reader
    tokens, log_b = torch.randn(1, 4, 16, TINY.encoder.width), torch.full((1, 4, 16), 1 / 16).log()
    less = reader(tokens[:, :2], log_b[:, :2]).evidence
    assert (reader(tokens, log_b).evidence > less).all()


def test_tokens_of_clips_are_weighed_by_evidence_slot_by_slot():
    tokens = torch.stack([torch.zeros(4, 3), torch.ones(4, 3)])
    evidence = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    mean = weighed(tokens, evidence)
    share = torch.sigmoid(torch.tensor(-2.0)).item()
    torch.testing.assert_close(mean, torch.tensor([0.5, share, 0.5, share])[:, None].expand(4, 3))


def test_trains_under_autocast(encoder):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, _ = encoder(latents())
    tokens.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)
    torch.testing.assert_close(tokens.float(), encoder(latents())[0], rtol=0.1, atol=0.1)
