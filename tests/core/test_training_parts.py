"""References cut in two: which, where, and what is read of them."""

import pytest
import torch

from slotid_core.errors import SlotIDError
from slotid_core.slots import IdentityEncoder, weighed
from slotid_core.training.identity import IdentityTask
from slotid_core.training.parts import BOTH, FIRST, SECOND, WHOLE, draw_parts, read_parts

from .models import TINY
from .training_files import experiment

CUT = torch.tensor(2)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return IdentityEncoder(TINY)


@pytest.fixture
def latents():
    return torch.randn(6, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))


def test_as_many_are_cut_as_asked_and_half_of_those_are_read_in_both_parts():
    part = torch.cat([draw_parts(0, step, range(100), 0.4, 9)["part"] for step in range(20)])
    shares = torch.bincount(part, minlength=4) / len(part)
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.2, 0.1, 0.1]), atol=0.03, rtol=0)


def test_first_parts_may_be_photos_and_second_ones_may_not():
    cuts = {int(draw_parts(0, step, range(1), 0.4, 9)["cut"]) for step in range(200)}
    assert cuts == set(range(1, 8)), "of nine latent frames"


def test_a_draw_is_a_function_of_step_and_row():
    whole = draw_parts(3, 7, range(8), 0.5, 9)
    late = draw_parts(3, 7, range(4, 8), 0.5, 9)
    assert torch.equal(whole["part"][4:], late["part"]) and torch.equal(whole["cut"], late["cut"])
    assert not torch.equal(draw_parts(3, 8, range(8), 0.5, 9)["part"], whole["part"])


def test_each_row_is_read_as_its_part_says(encoder, latents):
    part = torch.tensor([SECOND, WHOLE, BOTH, FIRST, WHOLE, BOTH])
    tokens = read_parts(encoder, latents, None, part, CUT)
    early, late = encoder(latents[:, :, :2]), encoder(latents[:, :, 2:])
    both = weighed(torch.stack([early[0], late[0]]), torch.stack([early[1].evidence, late[1].evidence]))
    expected = {WHOLE: encoder(latents)[0], BOTH: both, FIRST: early[0], SECOND: late[0]}
    for row, kind in enumerate(part.tolist()):
        torch.testing.assert_close(tokens[row], expected[kind][row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [WHOLE, BOTH, FIRST, SECOND])
def test_all_rows_of_one_kind(encoder, latents, kind):
    tokens = read_parts(encoder, latents, None, torch.full((6,), kind), CUT)
    assert tokens.shape == (6, 2 * TINY.encoder.slots, TINY.identity_width)
    tokens.square().sum().backward()
    assert encoder.tokenizer.project.weight.grad.abs().max() > 0


def test_the_face_mask_is_cut_with_the_clip(encoder, latents):
    saliency = torch.rand(6, 5, 4, 4, generator=torch.Generator().manual_seed(1)) + 0.1
    tokens = read_parts(encoder, latents, saliency, torch.full((6,), SECOND), CUT)
    torch.testing.assert_close(tokens, encoder(latents[:, :, 2:], saliency[:, 2:])[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(tokens, encoder(latents[:, :, 2:])[0], atol=1e-3)


def test_merging_teaches_the_evidence(encoder, latents):
    """The weights of a merge have a gradient, which reaches what the slots ask for."""
    read_parts(encoder, latents, None, torch.full((6,), BOTH), CUT)[:, 0].sum().backward()
    assert encoder.reader.router.query.weight.grad.abs().max() > 0


def test_a_task_reads_its_rows_in_parts(tmp_path):
    whole, cut = (IdentityTask(experiment(tmp_path, f"loss.parts={share}")) for share in (0.0, 1.0))
    assert "part" not in whole.batch(0, range(4))
    batch = cut.batch(0, range(4))
    assert batch["part"].tolist() != [WHOLE] * 4
    loss, _ = cut.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)


def test_photos_cannot_be_cut(tmp_path):
    with pytest.raises(SlotIDError, match="too short to cut"):
        IdentityTask(experiment(tmp_path, "loss.parts=0.5", "model.variant=first"))
