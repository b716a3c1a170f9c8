"""The Triton kernels in Triton's interpreter, on the CPU: accuracy, edges, gradients, repeatability.

The interpreter runs the kernels as Python, an operation at a time, so shapes are small: a few tiles, a few splits.
On a GPU: `TRITON_INTERPRET=0 python -m pytest tests/core/test_ops_triton.py`.
"""

import importlib.util
import math
import os

import pytest
import torch

from slotid_core import ops
from slotid_core.ops import BACKENDS, Backend, sinkhorn_routing, triton_backend, tuning
from slotid_core.ops.tuning import RESIDENT, SPLIT, STREAM, Launch

from .test_routing import double, plain
from .test_routing import problem as problem_on_cpu

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed: `pip install triton` needs no GPU", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, at log2(0) and inf - inf that a `where` drops
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]
NAMES = ("q", "k", "v", "log_a", "log_b")
DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """The Triton backend for CPU tensors, by name alone: `auto` never takes it."""
    there = Backend(lambda *_: None, triton_backend.forward, triton_backend.backward, triton_backend.precision)
    monkeypatch.setitem(BACKENDS, "interpreted", there)
    monkeypatch.setattr(tuning, "LEAST_SPAN", 16)


@pytest.fixture
def launch(monkeypatch):
    """Chooses the form of both directions; the resident form has no backward pass of its own."""

    def choose(form, block=16, programs=3):
        def chosen(of):
            if form == RESIDENT and of.direction == tuning.FORWARD:
                return Launch(RESIDENT, tuning.power_of_two(of.tokens), 4)
            return Launch(STREAM if form == RESIDENT else form, block, 4, 2, programs)

        monkeypatch.setattr(tuning, "chosen", chosen)

    return choose


def problem(*args, **kwargs):
    return [t.to(DEVICE) for t in problem_on_cpu(*args, **kwargs)]


def routed(inputs, eps=0.2, iterations=3, **kwargs):
    return sinkhorn_routing(*inputs, eps=eps, iterations=iterations, backend="interpreted", **kwargs)


def upstream(made):
    return [torch.randn(t.shape, generator=torch.Generator().manual_seed(i)).to(t) * 3 for i, t in enumerate(made)]


# The interpreter cuts bfloat16 off where a GPU rounds.
BFLOAT16 = 8e-3 if DEVICE == "cpu" else 6e-3
TOLERANCE = {torch.float32: (5e-6, 2e-5), torch.float16: (1e-3, 2e-2), torch.bfloat16: (BFLOAT16, 2e-2)}


@pytest.mark.parametrize(
    ("form", "S", "N", "d", "dv", "iterations", "dtype", "eps"),
    [
        (RESIDENT, 7, 40, 16, 16, 5, torch.float32, 0.05),
        (RESIDENT, 1, 1, 16, 16, 2, torch.float32, 0.2),
        (STREAM, 16, 3, 16, 16, 1, torch.float32, 0.2),
        (STREAM, 33, 37, 24, 40, 2, torch.bfloat16, 0.2),
        (STREAM, 128, 20, 16, 16, 2, torch.float32, 0.2),
        (SPLIT, 7, 70, 16, 16, 3, torch.float32, 0.05),
        (SPLIT, 16, 36, 64, 16, 1, torch.float16, 0.2),
    ],
    ids=str,
)
def test_forward_and_gradient_match_float64(launch, form, S, N, d, dv, iterations, dtype, eps):
    launch(form)
    q, k, _, log_a, log_b = problem(S, N, d, dtype, batch=(2,))
    v = torch.randn(2, N, dv, generator=torch.Generator().manual_seed(7)).to(q)
    inputs = [t.requires_grad_() for t in (q, k, v, log_a, log_b)]
    reference = [t.detach().double().requires_grad_() for t in inputs]
    got, want = routed(inputs, eps, iterations), plain(*reference, eps, iterations)
    limit, limit_of_gradient = TOLERANCE[dtype]
    assert got.out.dtype == dtype and got.row_mass.dtype == got.plan.dtype == torch.float32
    assert (got.out.double() - want[0]).abs().max() <= limit * max(1.0, want[0].abs().max())
    assert (got.row_mass - want[1]).abs().max() <= 5e-6 and (got.plan - want[2]).abs().max() <= 5e-6
    assert (got.plan.double().sum(-2) - log_b.double().exp()).abs().max() <= 1e-6, "columns are exact"
    a = log_a.double().exp()
    error, want_error = ((mass.double() - a).abs().sum(-1) for mass in (got.row_mass, want[1]))
    assert (error - want_error).abs().max() <= 1e-5, "the reported marginal error"
    after = upstream(got)
    for name, a, b in zip(
        NAMES, torch.autograd.grad(got, inputs, after), torch.autograd.grad(want, reference, double(after)), strict=True
    ):
        assert (a.double() - b).abs().max() <= limit_of_gradient * max(b.abs().max(), 1e-6), name


@pytest.mark.parametrize(("form", "junk"), [(RESIDENT, 1e4), (STREAM, math.nan), (SPLIT, math.inf)])
def test_masked_tokens_and_slots_that_are_off(launch, form, junk):
    """Dropped, whatever they hold; exactly 0 where they would come out, gradients included."""
    launch(form)
    q, k, v, log_a, log_b = problem(5, 40, 16, batch=(1,))
    masked = torch.arange(40, device=DEVICE) % 3 == 0
    off = torch.tensor([False, True, False, False, True], device=DEVICE)
    dirty = [t.masked_fill(masked.unsqueeze(-1), junk) for t in (k, v)]
    inputs = [q, *dirty, log_a.masked_fill(off, -math.inf), log_b.masked_fill(masked, -math.inf)]
    inputs = [t.requires_grad_() for t in inputs]
    out, row_mass, plan = routed(inputs)
    kept = double((q[:, ~off], k[:, ~masked], v[:, ~masked], log_a[:, ~off], log_b[:, ~masked]))
    want = plain(*kept, 0.2, 3)
    assert (out[:, ~off] - want[0]).abs().max() <= 5e-6 and (row_mass[:, ~off] - want[1]).abs().max() <= 5e-6
    assert (out[:, off] == 0).all() and (row_mass[:, off] == 0).all()
    assert (plan[..., masked] == 0).all() and (plan[:, off] == 0).all()
    d_q, d_k, d_v, d_log_a, d_log_b = torch.autograd.grad((out, row_mass), inputs, upstream((out, row_mass)))
    assert all(torch.isfinite(t).all() for t in (d_q, d_k, d_v, d_log_a, d_log_b))
    assert (d_q[:, off] == 0).all() and (d_log_a[:, off] == 0).all() and d_q.abs().max() > 0
    assert all((t[:, masked] == 0).all() and t.abs().max() > 0 for t in (d_k, d_v, d_log_b))


@pytest.mark.parametrize("form", [RESIDENT, STREAM, SPLIT])
def test_empty_mask_and_extreme_scores_stay_finite_and_a_nan_stays_in_its_problem(launch, form):
    """Four problems of one call: nothing to route, huge scores, a NaN among the keys, and one that minds none of it."""
    launch(form)
    q, k, v, log_a, log_b = problem(6, 36, 16, batch=(4,))
    log_b[0] = -math.inf
    q[1] *= 1e5
    k[2, 3, 2] = math.nan
    inputs = [t.requires_grad_() for t in (q, k, v, log_a, log_b)]
    made = routed(inputs)
    out, row_mass, plan = made
    assert (out[0] == 0).all() and (row_mass[0] == 0).all() and (plan[0] == 0).all()
    assert all(torch.isfinite(t[1]).all() for t in made)
    assert (plan[1].double().sum(-2) - log_b[1].double().exp()).abs().max() <= 1e-6
    assert torch.isnan(out[2]).all() and torch.isnan(row_mass[2]).all()
    alone = plain(*(t[3:].detach().double() for t in inputs), 0.2, 3)
    assert (out[3] - alone[0][0]).abs().max() <= 5e-6
    grads = torch.autograd.grad(made, inputs, upstream(made))
    assert all(torch.isfinite(t[[0, 1, 3]]).all() for t in grads)
    assert all(torch.isnan(t[2]).any() for t in grads), "a NaN is not turned into 0"


def test_small_eps_stays_finite(launch):
    launch(STREAM)
    made = routed(problem(16, 20, 16, torch.bfloat16, batch=(1,)), eps=1e-4)
    assert all(torch.isfinite(t).all() for t in made)


def test_strided_and_expanded_inputs(launch):
    """As the reader hands them over: heads beside the batch, one marginal for all heads, values of another stride."""
    launch(SPLIT)
    q, k, v, log_a, log_b = problem(6, 36, 16, batch=(2, 2))
    k, log_b = k[:, :1].expand(-1, 2, -1, -1), log_b[:, :1].expand(-1, 2, -1)
    v = v.transpose(-1, -2).contiguous().transpose(-1, -2)
    inputs = [t.requires_grad_() for t in (q, k, v, log_a, log_b)]
    dense = [t.detach().contiguous().requires_grad_() for t in inputs]
    got, want = routed(inputs), routed(dense)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    after = [torch.ones((), device=DEVICE).expand_as(t) for t in got[:2]]
    got, want = (torch.autograd.grad(made[:2], of, after) for made, of in ((got, inputs), (want, dense)))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_repeats_bit_for_bit_and_does_not_depend_on_the_split(launch):
    inputs = [t.requires_grad_() for t in problem(7, 100, 16, batch=(1,))]

    def run(form, programs):
        launch(form, programs=programs)
        made = routed(inputs)
        return *made, *torch.autograd.grad(made, inputs, upstream(made))

    first = run(SPLIT, 3)
    assert all(torch.equal(a, b) for a, b in zip(run(SPLIT, 3), first, strict=True))
    for other in (run(SPLIT, 6), run(STREAM, 1)):
        for a, b in zip(other, first, strict=True):
            assert (a - b).abs().max() <= 1e-6 * max(1.0, b.abs().max())


def test_compiles_without_a_graph_break(launch):
    launch(RESIDENT)
    inputs = [t.requires_grad_() for t in problem(5, 20, 16, batch=(1,))]

    def layer(q, k, v, log_a, log_b):
        out, row_mass, _ = routed((q * 2, k, v, log_a, log_b), iterations=2, with_plan=False)
        return out.square().sum() + row_mass.sum()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), layer(*inputs))
    got, want = (torch.autograd.grad(f(*inputs), inputs) for f in (compiled, layer))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_nothing_is_kept_for_a_gradient_that_is_not_wanted(launch):
    launch(RESIDENT)
    made = ops.sinkhorn_forward(*problem(5, 20, 16, batch=(1,)), 0.2, 3, False, False, "interpreted")
    assert made[2].numel() == 0 and made[5].numel() == 0 and made[3].shape == made[4].shape == (1, 3, 5)


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no stream to capture")
@pytest.mark.parametrize("form", [RESIDENT, STREAM, SPLIT])
def test_a_cuda_graph_gives_the_same_bits_and_no_call_waits(launch, form):
    launch(form)
    inputs = problem(7, 300, 32, batch=(2,))
    want = routed(inputs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        routed(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = routed(inputs)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(made, want, strict=True))
