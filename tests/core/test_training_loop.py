"""The loop on a task of no weight: accumulation, averages, schedules, resuming, and how it ends."""

import csv
import math
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from slotid_core.errors import SlotIDError
from slotid_core.training import loop
from slotid_core.training.config import Optimiser
from slotid_core.training.feed import Feed
from slotid_core.training.loop import averaged, train
from slotid_core.training.optim import Optimisers, move_average, rate_factor
from slotid_core.training.state import KEPT

from .toy_training import Toy, experiment

pytest.importorskip("accelerate")
MUON = pytest.param("muon", marks=pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9"))


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def lines(folder):
    with (folder / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run(folder, **changes):
    config = experiment(**changes)
    task = Toy(config)
    train(task, config, folder)
    return task


class PowerCutError(Exception):
    pass


def stop_at(monkeypatch, step):
    """Make the loop die as it asks for the rate of a step."""
    usual = loop.rate_factor

    def dying(config, number, steps):
        if number == step:
            raise PowerCutError
        return usual(config, number, steps)

    monkeypatch.setattr(loop, "rate_factor", dying)


@pytest.mark.parametrize("name", ["adamw", MUON])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch, name):
    straight = run(tmp_path / "straight", optimiser__name=name)
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(PowerCutError):
            run(tmp_path / "stopped", optimiser__name=name)
    resumed = run(tmp_path / "stopped", optimiser__name=name)
    assert (tmp_path / "stopped/losses.csv").read_bytes() == (tmp_path / "straight/losses.csv").read_bytes()
    assert [int(line["step"]) for line in lines(tmp_path / "stopped")] == list(range(1, 13))
    assert len(resumed.asked) == 8
    for one, other in zip(straight.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(one, other)
    made = [(tmp_path / folder / "toy.safetensors").read_bytes() for folder in ("straight", "stopped")]
    assert made[0] == made[1]
    assert float(lines(tmp_path / "straight")[-1]["loss"]) < 0.8 * float(lines(tmp_path / "straight")[0]["loss"])


def test_lines_after_the_checkpoint_go(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(PowerCutError):
            run(tmp_path)
    # Of the steps 5 to 7 the log has written one look's worth, to step 6.
    assert int(lines(tmp_path)[-1]["step"]) == 6
    with (tmp_path / "losses.csv").open("a") as file:
        file.write("7,0.1,0")
    run(tmp_path)
    assert [int(line["step"]) for line in lines(tmp_path)] == list(range(1, 13))


@pytest.mark.parametrize("name", ["adamw", MUON])
def test_accumulating_equals_a_big_batch(tmp_path, name):
    whole = run(tmp_path / "whole", optimiser__name=name)
    parts = run(tmp_path / "parts", optimiser__name=name, run__accumulation=4)
    assert len(parts.asked) == 4 * len(whole.asked)
    assert [row for rows in parts.asked[:4] for row in rows] == list(whole.asked[0])
    for one, other in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        for key in one:
            assert float(one[key]) == pytest.approx(float(other[key]), rel=1e-4), key


def test_what_is_saved_is_the_average(tmp_path):
    import safetensors.torch

    seen = []
    config = experiment(run__steps=3, optimiser__average=0.5)

    class Watching(Toy):
        def batch(self, step, rows):
            seen.append({name: p.detach().clone() for name, p in self.module.named_parameters()})
            return super().batch(step, rows)

    task = Watching(config)
    train(task, config, tmp_path)
    weights = [*seen, {name: p.detach() for name, p in task.module.named_parameters()}]
    made = safetensors.torch.load_file(tmp_path / "toy.safetensors")
    for name, tensor in made.items():
        average = weights[0][name]
        for step, now in enumerate(weights[1:]):
            keep = min(0.5, (step + 1) / (step + 10))
            average = keep * average + (1 - keep) * now[name]
        torch.testing.assert_close(tensor, average)


def test_the_average_follows_its_formula():
    average, weights = [torch.zeros(3)], [torch.ones(3)]
    move_average(average, weights, 0.99, 0)
    assert average[0].tolist() == pytest.approx([0.9] * 3)
    move_average(average, [2 * weights[0]], 0.99, 10_000)
    assert average[0].tolist() == pytest.approx([0.9 * 0.99 + 2 * 0.01] * 3)


def test_averaged_weights_leave_again():
    layer = torch.nn.Linear(2, 2)
    named = dict(layer.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    with averaged(named, {name: torch.zeros_like(p) for name, p in named.items()}):
        assert not layer.weight.any()
    assert all(torch.equal(p, before[name]) for name, p in named.items())


def test_schedules():
    cosine = Optimiser(warmup=10, schedule="cosine", floor=0.1)
    assert rate_factor(cosine, 0, 110) == pytest.approx(0.1)
    assert rate_factor(cosine, 9, 110) == pytest.approx(1.0)
    assert rate_factor(cosine, 60, 110) == pytest.approx((1 + 0.1) / 2)
    assert rate_factor(cosine, 109, 110) == pytest.approx(0.1, abs=1e-3)
    tail = Optimiser(warmup=10, schedule="tail", decay=20)
    assert [rate_factor(tail, step, 100) for step in (4, 50, 79, 90, 99)] == pytest.approx([0.5, 1, 1, 0.5, 0.05])
    # Until the fall begins, a longer run is the same run.
    assert all(rate_factor(tail, step, 100) == rate_factor(tail, step, 500) for step in range(80))


def test_muon_takes_matrices_and_kernels_and_leaves_the_rest(tmp_path):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch before 2.9")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    named = dict(module.named_parameters())
    optimisers = Optimisers(Optimiser(name="muon", rate=0.0, matrix_rate=0.1), named, lambda name: name != "2.weight")
    before = {name: p.detach().clone() for name, p in named.items()}
    module(torch.randn(5, 3, 4, 4)).square().mean().backward()
    optimisers.scale(0.5)
    optimisers.step()
    moved = {name for name, p in named.items() if not torch.equal(p, before[name])}
    assert moved == {"0.weight"}
    # An orthogonalised step: the kernel moved by a matrix of about equal singular values, rate times one.
    values = torch.linalg.svdvals((named["0.weight"] - before["0.weight"]).detach().flatten(1)) / 0.05
    assert values.min() > 0.3 and values.max() < 1.4


def test_muon_without_a_torch_that_has_it(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    named = dict(torch.nn.Linear(2, 2).named_parameters())
    with pytest.raises(SlotIDError, match=r"torch 2\.9"):
        Optimisers(Optimiser(name="muon"), named, lambda name: True)


def test_decay_spares_vectors():
    module = torch.nn.Linear(2, 2)
    optimisers = Optimisers(Optimiser(), dict(module.named_parameters()), lambda name: True)
    decays = {p.ndim: group["weight_decay"] for group in optimisers.parts[0].param_groups for p in group["params"]}
    assert decays[1] == 0 and decays[2] > 0


def test_checkpoints_by_steps_and_by_minutes(tmp_path):
    run(tmp_path / "steps", run__save_every=3)
    kept = sorted(path.stem for path in (tmp_path / "steps/checkpoints").iterdir())
    assert kept == ["step_00000009", "step_00000012"] and len(kept) == KEPT
    run(tmp_path / "minutes", run__save_every=100, run__save_minutes=0, run__steps=5)
    kept = sorted(path.stem for path in (tmp_path / "minutes/checkpoints").iterdir())
    assert kept == ["step_00000004", "step_00000005"]


def test_ctrl_c_saves_and_leaves(tmp_path):
    config = experiment(run__save_every=100)

    class Interrupted(Toy):
        def batch(self, step, rows):
            if step == 5 and not (tmp_path / "checkpoints").exists():
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(step, rows)

    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(Interrupted(config), config, tmp_path)
    assert signal.getsignal(signal.SIGINT) is usual
    assert [path.stem for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000006"]
    assert len(lines(tmp_path)) == 6
    train(Interrupted(config), config, tmp_path)
    assert len(lines(tmp_path)) == 12


def test_another_run_is_not_overwritten(tmp_path):
    run(tmp_path)
    with pytest.raises(SlotIDError, match=r"run\.seed"):
        run(tmp_path, run__seed=1)
    longer = run(tmp_path, run__steps=14)
    assert len(longer.asked) == 2 and len(lines(tmp_path)) == 14


def test_a_batch_that_cannot_be_shared(tmp_path):
    with pytest.raises(SlotIDError, match="batch = 8"):
        run(tmp_path, run__accumulation=3)


def test_half_precision_on_a_cpu_is_refused(tmp_path):
    with pytest.raises(SlotIDError, match="fp16"):
        run(tmp_path, run__precision="fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes on GPUs do know of each other")
def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    # Accelerate joins processes on CPUs, CUDA and XPU; on Apple's GPUs each would train for itself.
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SlotIDError, match="2 processes were launched"):
        run(tmp_path)


def test_losses_are_whole_numbers_of_the_run(tmp_path):
    run(tmp_path)
    for line in lines(tmp_path):
        assert all(math.isfinite(float(value)) for value in line.values())
        assert list(line) == ["step", "loss", "large", "norm", "rate"]


def test_sheets_are_drawn_with_the_averages(tmp_path):
    np = pytest.importorskip("numpy")
    config = experiment(run__steps=4, samples__every=2)
    seen = {}

    class Drawing(Toy):
        def sample(self, step):
            seen[step] = self.module[0].weight.detach().clone()
            return np.zeros((4, 4, 3), dtype=np.uint8)

    task = Drawing(config)
    train(task, config, tmp_path)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "step_00000002.png",
        "step_00000004.png",
    ]
    import safetensors.torch

    made = safetensors.torch.load_file(tmp_path / "toy.safetensors")
    assert torch.equal(seen[4], made["0.weight"]) and not torch.equal(seen[4], task.module[0].weight)


def test_curves_go_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, run__steps=5)
    run(tmp_path, run__steps=7)
    curves = EventAccumulator(str(tmp_path / "curves"))
    curves.Reload()
    assert [event.step for event in curves.Scalars("loss")] == list(range(1, 8))
    assert [event.value for event in curves.Scalars("loss")] == pytest.approx(
        [float(line["loss"]) for line in lines(tmp_path)], rel=1e-6
    )
    assert set(curves.Tags()["scalars"]) == {"loss", "large", "norm", "rate"}


def test_without_tensorboard_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "find_spec", lambda name: None)
    run(tmp_path, run__steps=1)
    assert "TensorBoard is not installed" in capsys.readouterr().out
    assert not (tmp_path / "curves").exists()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_rows_made_ahead_are_the_rows_asked_for(device):
    """Beside a GPU (here a device that only looks like one) the next batch is made in a thread."""
    config = experiment()
    made = []

    class Watching(Toy):
        def batch(self, step, rows):
            made.append((step, rows))
            return super().batch(step, rows)

    second = SimpleNamespace(device=torch.device(device), num_processes=2, process_index=1)
    feed = Feed(Watching(config), second, batch=8, accumulation=2)
    asked = [(step, part) for step in range(3) for part in range(2)]
    for step, part in asked:
        rows = feed(step, part)["x"]
        assert rows.shape == (2, 6) and rows.device.type == device
    expected = [(step, range(2 + 4 * part, 4 + 4 * part)) for step, part in asked]
    # Each once and in order; at most one more is under way.
    assert made[:6] == expected and len(made) <= 7
