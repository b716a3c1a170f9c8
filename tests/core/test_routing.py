"""The reference routing against a float64 formula written out in plain autograd operations."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slotid_core.errors import SlotIDError
from slotid_core.ops import BACKENDS, ENVIRONMENT_VARIABLE, Backend, backends, choose_backend, sinkhorn_routing

SHAPES = [(1, 3, 8), (7, 1, 16), (16, 256, 64), (33, 257, 64), (128, 70, 32), (17, 1560, 128)]


def plain(q, k, v, log_a, log_b, eps, iterations):
    """The definition, with nothing for speed or edge cases."""
    x = q @ k.mT / (math.sqrt(q.shape[-1]) * eps)
    b = log_b.exp().unsqueeze(-2)
    f = log_a - torch.logsumexp(x + log_b.unsqueeze(-2), -1)
    for step in range(iterations):
        A = torch.softmax(x + f.unsqueeze(-1), -2)
        r = (A * b).sum(-1)
        if step < iterations - 1:
            f = f + log_a - r.log()
    return (A * b) @ v / r.unsqueeze(-1), r, A * b


def problem(S, N, d, dtype=torch.float32, batch=(2, 2), seed=0):
    """Inputs with uneven marginals; values rounded to `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(*batch, n, d, generator=generator).to(dtype) for n in (S, N, N))
    log_a = torch.log_softmax(0.5 * torch.randn(*batch, S, generator=generator), -1)
    log_b = torch.log_softmax(0.5 * torch.randn(*batch, N, generator=generator), -1)
    return q, k, v, log_a, log_b


def double(tensors):
    return [t.double() for t in tensors]


@pytest.mark.parametrize(("S", "N", "d"), SHAPES)
@pytest.mark.parametrize("eps", [0.2, 0.05, 1e-3])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float16, 1e-3), (torch.bfloat16, 6e-3)], ids=str
)
def test_forward_matches_float64(S, N, d, eps, dtype, tolerance):
    inputs = problem(S, N, d, dtype)
    out, row_mass, plan = sinkhorn_routing(*inputs, eps=eps, iterations=5)
    want_out, want_row_mass, want_plan = plain(*double(inputs), eps, 5)
    if eps < 0.05:
        tolerance = max(tolerance, 5e-5)
    scale = max(1.0, want_out.abs().max().item())
    assert out.dtype == dtype and row_mass.dtype == plan.dtype == torch.float32
    assert (out.double() - want_out).abs().max() <= tolerance * scale
    assert (row_mass - want_row_mass).abs().max() <= 5e-6
    assert (plan - want_plan).abs().max() <= 5e-6


@pytest.mark.parametrize("eps", [0.2, 0.05, 1e-3])
def test_columns_are_exact_and_the_row_error_is_reported(eps):
    inputs = problem(16, 300, 64)
    _, row_mass, plan = sinkhorn_routing(*inputs, eps=eps, iterations=5)
    log_a, log_b = inputs[3].double(), inputs[4].double()
    assert (plan.double().sum(-2) - log_b.exp()).abs().max() <= 1e-6
    want = (plain(*double(inputs), eps, 5)[1] - log_a.exp()).abs().sum(-1)
    assert ((row_mass.double() - log_a.exp()).abs().sum(-1) - want).abs().max() <= 1e-5
    assert want.max() > 1e-3, "five iterations leave a marginal error worth reporting"


@pytest.mark.parametrize("iterations", [1, 5])
def test_golden_numbers(iterations):
    """The definition itself, start included: other choices of g_0 differ by 1e-2 after five iterations."""
    held = load_file(Path(__file__).parents[1] / "golden" / "routing.safetensors")
    inputs = [held[name] for name in ("q", "k", "v", "log_a", "log_b")]
    for name, value in sinkhorn_routing(*inputs, eps=0.2, iterations=iterations)._asdict().items():
        torch.testing.assert_close(value, held[f"{name}_{iterations}"], rtol=1e-9, atol=1e-12)


def test_more_iterations_converge_to_both_marginals():
    inputs = double(problem(8, 50, 16))
    errors = [
        (sinkhorn_routing(*inputs, eps=0.5, iterations=n).row_mass - inputs[3].exp()).abs().max() for n in (1, 5, 200)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-7


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_gradcheck(iterations):
    inputs = [t.requires_grad_() for t in double(problem(3, 7, 4, batch=(2,)))]
    assert torch.autograd.gradcheck(lambda *t: tuple(sinkhorn_routing(*t, eps=0.3, iterations=iterations)), inputs)


@pytest.mark.parametrize(("S", "N", "d"), [(16, 256, 64), (33, 257, 32)])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_gradient_matches_autograd_with_any_upstream(S, N, d, iterations):
    inputs = [t.requires_grad_() for t in problem(S, N, d)]
    reference = [t.detach().double().requires_grad_() for t in inputs]
    got = sinkhorn_routing(*inputs, eps=0.2, iterations=iterations)
    want = plain(*reference, 0.2, iterations)
    upstream = [torch.randn(t.shape, generator=torch.Generator().manual_seed(i)) * 3 for i, t in enumerate(got)]
    got = torch.autograd.grad(got, inputs, upstream)
    want = torch.autograd.grad(want, reference, double(upstream))
    for name, a, b in zip(("q", "k", "v", "log_a", "log_b"), got, want, strict=True):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max(), name


def test_bfloat16_gradient():
    inputs = [t.requires_grad_() for t in problem(16, 256, 64, torch.bfloat16)]
    reference = [t.detach().double().requires_grad_() for t in inputs]
    got = torch.autograd.grad(sinkhorn_routing(*inputs, eps=0.2, iterations=5).out.float().square().sum(), inputs)
    want = torch.autograd.grad(plain(*reference, 0.2, 5)[0].square().sum(), reference)
    for a, b in zip(got, want, strict=True):
        assert (a.double() - b).abs().max() <= 2e-2 * b.abs().max()


def test_autocast_leaves_the_precision_alone():
    inputs = [t.requires_grad_() for t in problem(16, 70, 32)]

    def run():
        out = sinkhorn_routing(*inputs, eps=0.2, iterations=5).out
        return out, *torch.autograd.grad(out.square().sum(), inputs)

    want = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("junk", [math.nan, 1e4, math.inf])
def test_masked_tokens_are_dropped(junk):
    q, k, v, log_a, log_b = double(problem(5, 20, 8))
    masked = torch.arange(20) % 3 == 0
    dirty_k, dirty_v = (t.masked_fill(masked.unsqueeze(-1), junk).requires_grad_() for t in (k, v))
    masked_b = log_b.masked_fill(masked, -math.inf)
    out, row_mass, plan = sinkhorn_routing(q, dirty_k, dirty_v, log_a, masked_b, eps=0.2, iterations=5)
    kept = plain(q, k[..., ~masked, :], v[..., ~masked, :], log_a, log_b[..., ~masked], 0.2, 5)
    torch.testing.assert_close(out, kept[0])
    torch.testing.assert_close(row_mass, kept[1])
    assert (plan[..., masked] == 0).all()
    d_k, d_v = torch.autograd.grad(out.square().sum() + row_mass.square().sum(), (dirty_k, dirty_v))
    assert (d_k[..., masked, :] == 0).all() and (d_v[..., masked, :] == 0).all()
    assert torch.isfinite(d_k).all() and d_k.abs().max() > 0


def test_masked_token_gives_no_gradient_to_its_weight():
    q, k, v, log_a, log_b = double(problem(5, 20, 8))
    masked_b = log_b.masked_fill(torch.arange(20) < 4, -math.inf).requires_grad_()
    (d_log_b,) = torch.autograd.grad(
        sinkhorn_routing(q, k, v, log_a, masked_b, eps=0.2, iterations=5).out.square().sum(), masked_b
    )
    assert (d_log_b[..., :4] == 0).all() and torch.isfinite(d_log_b).all() and d_log_b.abs().max() > 0


def test_empty_mask_gives_zero():
    inputs = [t.requires_grad_() for t in double(problem(5, 20, 8))]
    empty = torch.full_like(inputs[4], -math.inf)
    out, row_mass, plan = sinkhorn_routing(*inputs[:4], empty, eps=0.2, iterations=5)
    assert (out == 0).all() and (row_mass == 0).all() and (plan == 0).all()
    for grad in torch.autograd.grad(out.sum() + plan.sum(), inputs[:4]):
        assert torch.isfinite(grad).all()


def test_slot_that_is_off():
    q, k, v, log_a, log_b = (t.requires_grad_() for t in double(problem(5, 20, 8)))
    off = torch.tensor([False, True, False, False, True])
    masked_a = log_a.masked_fill(off, -math.inf)
    out, row_mass, plan = sinkhorn_routing(q, k, v, masked_a, log_b, eps=0.2, iterations=5)
    kept = plain(q[..., ~off, :], k, v, log_a[..., ~off], log_b, 0.2, 5)
    torch.testing.assert_close(out[..., ~off, :], kept[0])
    assert (out[..., off, :] == 0).all() and (row_mass[..., off] == 0).all() and (plan[..., off, :] == 0).all()
    (d_q,) = torch.autograd.grad(out.square().sum(), q)
    assert (d_q[..., off, :] == 0).all() and torch.isfinite(d_q).all()


@pytest.mark.parametrize(("factor", "eps"), [(100.0, 0.2), (1.0, 1e-4), (100.0, 1e-4)])
def test_extreme_scores_stay_finite(factor, eps):
    inputs = [t.requires_grad_() for t in problem(16, 100, 32)]
    scaled = [inputs[0] * factor, *inputs[1:]]
    out, row_mass, plan = sinkhorn_routing(*scaled, eps=eps, iterations=5)
    assert all(torch.isfinite(t).all() for t in (out, row_mass, plan))
    assert (plan.sum(-2) - inputs[4].exp()).abs().max() <= 1e-6
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.sum(), inputs))


def test_a_nan_stays_in_its_problem_and_is_not_hidden():
    q, k, v, log_a, log_b = problem(5, 20, 8)
    k = k.clone()
    k[0, 1, 3, 2] = math.nan
    out, row_mass, _ = sinkhorn_routing(q, k, v, log_a, log_b, eps=0.2, iterations=5)
    assert torch.isnan(out[0, 1]).all() and torch.isnan(row_mass[0, 1]).all()
    out[0, 1] = 0
    assert torch.isfinite(out).all()


def test_strided_and_expanded_inputs():
    q, k, v, log_a, log_b = problem(6, 24, 8)
    k, v = k[:1].expand(2, -1, -1, -1), v.transpose(-1, -2).contiguous().transpose(-1, -2)
    got = sinkhorn_routing(q, k, v, log_a, log_b, eps=0.2, iterations=5)
    dense = [t.contiguous() for t in (q, k, v, log_a, log_b)]
    torch.testing.assert_close(got, sinkhorn_routing(*dense, eps=0.2, iterations=5), rtol=1e-6, atol=1e-6)


def test_repeats_bit_for_bit():
    inputs = problem(16, 300, 64)
    first, second = (sinkhorn_routing(*inputs, eps=0.2, iterations=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def broken(change):
    inputs = dict(zip(("q", "k", "v", "log_a", "log_b"), problem(5, 20, 8), strict=True))
    return {**inputs, "eps": 0.2, "iterations": 5, **change(inputs)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {"k": t["k"][..., :4]}, "k of shape"),
        (lambda t: {"v": t["v"][..., :10, :]}, "v of shape"),
        (lambda t: {"log_a": t["log_b"]}, "log_a of shape"),
        (lambda t: {"log_b": t["log_b"][0]}, "log_b of shape"),
        (lambda t: {"eps": 0.0}, "eps 0.0"),
        (lambda t: {"eps": math.nan}, "eps nan"),
        (lambda t: {"iterations": 0}, "0 iterations"),
        (lambda t: {"q": t["q"][..., :1, :].expand(-1, -1, 129, -1), "log_a": torch.zeros(2, 2, 129)}, "129 slots"),
    ],
)
def test_refuses_what_it_cannot_route(change, words):
    with pytest.raises(SlotIDError, match=words):
        sinkhorn_routing(**broken(change))


def test_backend_by_declared_capability(monkeypatch, caplog):
    q, k, v, *_ = problem(5, 20, 8)
    picky = Backend(lambda q, k, v, eps: "wants tensors of another world", None, None, None)
    monkeypatch.setattr(backends, "BACKENDS", {"picky": picky, "reference": BACKENDS["reference"]})
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    with caplog.at_level("INFO", backends.__name__):
        assert [choose_backend(q, k, v, 0.2), choose_backend(q, k, v, 0.2)] == ["reference", "reference"]
    assert len(caplog.records) == 1 and "another world" in caplog.text, "one line for each reason"
    with pytest.raises(SlotIDError, match="wants tensors of another world"):
        choose_backend(q, k, v, 0.2, "picky")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "picky")
    with pytest.raises(SlotIDError, match="wants tensors of another world"):
        choose_backend(q, k, v, 0.2)
    assert choose_backend(q, k, v, 0.2, "reference") == "reference"
    with pytest.raises(SlotIDError, match="routing backend 'fast'"):
        choose_backend(q, k, v, 0.2, "fast")
