"""The residual: nothing at the start of training, bit-identical outside its rows and tokens, the formula inside."""

import math

import pytest
import torch

from slotid_core import conditioning
from slotid_core.conditioning import IdentityConditioning, apply_residual
from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.model import SlotID

from .models import TINY, tiny_model


def hidden(batch=2, length=12):
    return torch.randn(batch, length, 32, generator=torch.Generator().manual_seed(3))


def identity_tokens():
    return torch.randn(8, 24, generator=torch.Generator().manual_seed(4))


def residual_of(model, block, x, tokens=None, time=0.5):
    conditioning = model.conditioning
    prepared = conditioning.prepare(identity_tokens() if tokens is None else tokens)
    gate = conditioning.gate(torch.full((x.shape[0],), time), x.dtype)[block]
    return conditioning.residual(block, x, prepared, gate)


def test_a_fresh_model_changes_nothing_and_opens_its_gates_half():
    model = SlotID(TINY)
    assert (residual_of(model, 1, hidden()) == 0).all()
    assert all((gate == 0.5).all() for gate in model.conditioning.gate(torch.rand(3), torch.float32).values())


def test_stride_chooses_the_blocks():
    assert tiny_model().conditioning.blocks_used == (1, 3)
    every = IdentityConditioning(ConditioningConfig(16, 2, 1), TINY.backbone, 24)
    assert every.blocks_used == (0, 1, 2, 3)


def test_residual_is_the_formula():
    model, x, tokens = tiny_model(), hidden(), identity_tokens()
    block = model.conditioning.blocks["3"]
    normed = torch.nn.functional.layer_norm(x, (32,), block.norm.weight, block.norm.bias)
    q = (normed @ block.query.weight.T).view(2, 12, 2, 8)
    k, v = ((tokens @ w.T).view(8, 2, 8) for w in (block.key.weight, block.value.weight))
    weights = torch.softmax(torch.einsum("blhd,nhd->bhln", q, k) / math.sqrt(8), -1)
    read = torch.einsum("bhln,nhd->blhd", weights, v).reshape(2, 12, 16)
    gate = model.conditioning.gate(torch.tensor([0.5, 0.5]), x.dtype)[3].view(2, 1, 1)
    torch.testing.assert_close(residual_of(model, 3, x), gate * (read @ block.out.weight.T), rtol=1e-4, atol=1e-6)


def test_gate_depends_on_time_and_stays_within_0_and_1():
    gates = tiny_model().conditioning.gate(torch.linspace(0, 1, 11), torch.float32)
    for gate in gates.values():
        assert gate.shape == (11,) and ((gate > 0) & (gate < 1)).all() and gate.std() > 1e-3


def test_each_row_may_carry_its_own_identity():
    model, x = tiny_model(), hidden()
    first, second = identity_tokens(), identity_tokens().flip(0) * 2
    both = residual_of(model, 1, x, torch.stack([first, second]))
    torch.testing.assert_close(both[:1], residual_of(model, 1, x[:1], first), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both[1:], residual_of(model, 1, x[1:], second), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_untouched_rows_and_tokens_are_bit_identical(dtype):
    model, x = tiny_model().to(dtype), hidden(4).to(dtype)
    before = x.clone()
    rows, tokens = [slice(0, 1), slice(2, 3)], slice(2, 11)
    identity = identity_tokens().to(dtype)
    result = apply_residual(
        x, lambda part, _: residual_of(model, 1, part, identity), rows=rows, tokens=tokens, strength=0.7
    )
    assert torch.equal(x, before), "the caller's tensor is never written to"
    assert torch.equal(result[[1, 3]], x[[1, 3]])
    assert torch.equal(result[:, :2], x[:, :2]) and torch.equal(result[:, 11:], x[:, 11:])
    assert (result[0, 2:11] != x[0, 2:11]).any() and (result[2, 2:11] != x[2, 2:11]).any()


@pytest.mark.parametrize(
    ("width", "depth", "parameters", "limit"), [(1536, 30, 1.42e9, 0.05), (5120, 40, 14.3e9, 0.01)]
)
def test_added_parameters_stay_small(width, depth, parameters, limit):
    config = SlotIDConfig(Backbone("wan2.1", width, depth), EncoderConfig(), ConditioningConfig())
    with torch.device("meta"):
        added = sum(p.numel() for p in SlotID(config).parameters())
    assert added <= limit * parameters


@pytest.mark.parametrize("owned", [False, True])
def test_tokens_in_parts_give_the_same(monkeypatch, owned):
    """Without gradients; a part holds fewer tokens than there are, and the last one fewer still."""
    model, x = tiny_model(), hidden(3)

    def result(x, part):
        monkeypatch.setattr(conditioning, "PART", part)
        return apply_residual(
            x,
            lambda some, _: residual_of(model, 1, some),
            rows=[slice(0, 1), slice(2, 3)],
            tokens=slice(2, 11),
            strength=0.7,
            owned=owned,
        )

    with torch.no_grad():
        before, given = x.clone(), x.clone()
        want, got = result(x.clone(), 1 << 24), result(given, 4 * 32)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    assert (got is given) is owned
    assert owned or torch.equal(given, before)
    assert torch.equal(got[1], before[1]) and torch.equal(got[:, :2], before[:, :2])
    assert torch.equal(got[:, 11:], before[:, 11:]) and (got[0, 2:11] != before[0, 2:11]).any()


def test_an_owned_tensor_is_kept_while_a_gradient_may_want_it():
    x = hidden().requires_grad_()
    square = x * x
    result = apply_residual(
        square, lambda part, _: part * part, rows=[slice(0, 1)], tokens=slice(None), strength=0.5, owned=True
    )
    assert result is not square
    (got,) = torch.autograd.grad(result.sum(), x)
    want = 2 * x + torch.cat([2 * x[:1] ** 3, torch.zeros_like(x[1:])])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_conditioned_backbone_compiles_into_one_graph(gradients):
    """As the host installs it: a closure after every block, rows and tokens chosen beforehand."""
    model, x = tiny_model(), hidden(2)
    blocks = [torch.nn.Linear(32, 32) for _ in range(4)]
    prepared = model.conditioning.prepare(identity_tokens())
    gates = model.conditioning.gate(torch.tensor([0.5, 0.5]), x.dtype)

    def backbone(x):
        for i, block in enumerate(blocks):
            x = x + torch.tanh(block(x))
            if i in gates:
                x = apply_residual(
                    x,
                    lambda part, rows, i=i: model.conditioning.residual(i, part, prepared, gates[i][rows]),
                    rows=[slice(1, 2)],
                    tokens=slice(2, 11),
                    strength=0.7,
                    owned=True,
                )
        return x

    with torch.set_grad_enabled(gradients):
        compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), backbone(x), rtol=1e-5, atol=1e-6)
