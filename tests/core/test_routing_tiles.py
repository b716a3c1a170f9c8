"""How the reference walks its tokens: tiles, kept or remade weights and shared exponentials change nothing."""

import pytest
import torch

from slotid_core.ops import sinkhorn, sinkhorn_routing

from .test_routing import double, plain, problem


def routed(inputs, eps=0.2, iterations=5):
    """All outputs and gradients, with an upstream of its own for each output."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    made = sinkhorn_routing(*inputs, eps=eps, iterations=iterations, backend="reference")
    upstream = [torch.randn(t.shape, generator=torch.Generator().manual_seed(i)).to(t) for i, t in enumerate(made)]
    return *made, *torch.autograd.grad(made, inputs, upstream)


@pytest.mark.parametrize(
    "walk",
    [{"TILE": 40, "GRADIENT_TILE": 40}, {"TILE": 40, "KEPT": 0}, {"GRADIENT_TILE": 700}, {"SPREAD": -1.0}],
    ids=str,
)
@pytest.mark.parametrize("iterations", [1, 2, 6])
def test_the_walk_changes_nothing(monkeypatch, walk, iterations):
    inputs = double(problem(7, 33, 8, batch=(3, 2)))
    want = routed(inputs, iterations=iterations)
    for name, value in walk.items():
        monkeypatch.setattr(sinkhorn, name, value)
    for a, b in zip(routed(inputs, iterations=iterations), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)], ids=str)
def test_potentials_that_move_far_are_followed(monkeypatch, dtype, tolerance):
    """Marginals and scores under which f moves by more than a shared exponential could hold."""
    q, k, v, log_a, log_b = (t.to(dtype) for t in problem(6, 24, 8))
    log_a = torch.log_softmax(torch.tensor([0.0, -60.0, -1.0, -70.0, -2.0, -30.0], dtype=dtype), -1).expand(2, 2, 6)
    inputs = [q * 10, k, v, log_a, log_b]
    moved = []
    original = sinkhorn._spread
    monkeypatch.setattr(sinkhorn, "_spread", lambda f: moved.append(original(f)) or moved[-1])
    got = sinkhorn_routing(*inputs, eps=0.2, iterations=8, backend="reference")
    want = plain(*double(inputs), 0.2, 8)
    assert max(moved) > sinkhorn.SPREAD
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("case", ["as usual", "a token far from every slot", "a heavy slot", "light tokens", "a NaN"])
def test_the_quick_start_is_taken_where_it_holds(monkeypatch, case):
    """Without the maximum over slots a column or a sum could round to 0; then the start is made anew with it."""
    q, k, v, log_a, log_b = problem(6, 24, 8)
    if case == "a token far from every slot":
        q, k = q + 3 * torch.ones(8), k.index_fill(-2, torch.tensor([5]), -4.0)
    if case == "a heavy slot":
        log_a = torch.log_softmax(log_a + torch.tensor([60.0, 0, 0, 0, 0, 0]), -1)
    if case == "light tokens":
        log_b = log_b - 40
    if case == "a NaN":
        k = k.index_fill(-2, torch.tensor([3]), torch.nan)
    taken = []
    original = sinkhorn._Weights._start_from_largest
    monkeypatch.setattr(
        sinkhorn._Weights, "_start_from_largest", lambda self, a: taken.append(original(self, a)) or taken[-1]
    )
    got = sinkhorn_routing(q, k, v, log_a, log_b, eps=0.2, iterations=5, backend="reference")
    assert taken == [case == "as usual"]
    for a, b in zip(got, plain(*double((q, k, v, log_a, log_b)), 0.2, 5), strict=True):
        assert (case == "a NaN" and a.isnan().all()) or (a - b).abs().max() <= 5e-6 * max(1.0, b.abs().max())


def test_without_the_plan_nothing_grows_with_the_tokens():
    """Every tensor that lives at once, in bytes, beside the inputs and outputs."""

    def peak(tokens):
        inputs = problem(8, tokens, 16, batch=(1,))
        with torch.profiler.profile(profile_memory=True) as profile:
            sinkhorn_routing(*inputs, eps=0.2, iterations=3, with_plan=False, backend="reference")
        held = most = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        return most

    small, large = peak(1 << 20), peak(1 << 21)
    assert small > 5e5 and large <= 1.05 * small


def test_the_gradient_takes_a_fifth_of_the_memory_of_autograd():
    """At 16,384 tokens and 10 iterations; most of what it takes is the gradients themselves."""
    from benchmarks import bench_memory

    rows = bench_memory.measure(16384, 10, torch.device("cpu"), torch.float32)
    peaks = {row["route"]: row["peak_bytes"] for row in rows if row["mode"] == "forward+backward"}
    assert peaks["reference"] <= peaks["log-domain"] / 5


def test_plan_only_when_asked_for():
    inputs = [t.requires_grad_() for t in double(problem(5, 20, 8))]
    with_plan = sinkhorn_routing(*inputs, eps=0.2, iterations=3)
    without = sinkhorn_routing(*inputs, eps=0.2, iterations=3, with_plan=False)
    assert without.plan.shape == (2, 2, 5, 0)
    assert torch.equal(without.out, with_plan.out) and torch.equal(without.row_mass, with_plan.row_mass)
    got, want = (torch.autograd.grad(t.out.square().sum(), inputs) for t in (without, with_plan))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_no_leading_dimensions():
    inputs = double(problem(5, 20, 8, batch=()))
    for a, b in zip(sinkhorn_routing(*inputs, eps=0.2, iterations=3), plain(*inputs, 0.2, 3), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend_sees", ["gradients", "none"])
def test_compiles_without_a_graph_break(backend_sees):
    inputs = [t.requires_grad_(backend_sees == "gradients") for t in double(problem(5, 20, 8))]

    def layer(q, k, v, log_a, log_b):
        out, row_mass, plan = sinkhorn_routing(q * 2, k, v, log_a, log_b, eps=0.2, iterations=3)
        return out.square().sum() + (plan.mean(1) * 3).sum() + row_mass.sum()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), layer(*inputs))
    if backend_sees == "gradients":
        got, want = (torch.autograd.grad(f(*inputs), inputs) for f in (compiled, layer))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)


def test_operators_tell_their_shapes():
    """The fake implementations agree with the real ones, through torch's own check."""
    from slotid_core.ops.operator import sinkhorn_forward

    for eps, dtype in ((0.2, torch.float32), (0.05, torch.float32), (0.2, torch.bfloat16)):
        inputs = [t.requires_grad_() for t in problem(3, 9, 4, dtype)]
        for with_plan in (True, False):
            torch.library.opcheck(
                sinkhorn_forward,
                (*inputs, eps, 3, with_plan, True, "reference"),
                test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
            )
