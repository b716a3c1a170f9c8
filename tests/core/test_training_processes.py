"""Runs in processes of their own: killed without warning, and two that share one batch."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slotid_core.cli import main

from .toy_training import Toy, experiment
from .training_files import write_experiment

pytest.importorskip("accelerate")
HERE = Path(__file__).parent
ROOT = str(HERE.parents[1])
PATIENCE = 1200
KILLED_RUN = """
import os, signal, sys
from slotid_core.cli import main
from slotid_core.training import loop

usual = loop.rate_factor
def killing(config, step, steps):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(config, step, steps)

loop.rate_factor = killing
main(sys.argv[1:])
"""
NAMES = ["adamw", pytest.param("muon", marks=pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="old torch"))]


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("PYTHONPATH", ROOT, prepend=os.pathsep)
    # Sums are taken in the same order by as many threads.
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


def call(*words, expected=0):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == expected, done.stderr[-3000:]
    return done.stdout


def lines(folder):
    with (folder / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_killed_run_goes_on_to_the_same_losses(tmp_path, capsys):
    pytest.importorskip("diffusers")
    config = str(write_experiment(tmp_path))
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    call("-c", KILLED_RUN, "train", config, "-o", killed, expected=-signal.SIGKILL)
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["step_00000003.safetensors"]
    assert not (killed / "slotid.safetensors").exists()
    assert main(["train", config, "-o", str(killed)]) == 0
    assert main(["train", config, "-o", str(straight)]) == 0
    assert "from step 3" in capsys.readouterr().err
    assert (killed / "losses.csv").read_bytes() == (straight / "losses.csv").read_bytes()
    assert len(lines(straight)) == 8
    assert (killed / "slotid.safetensors").read_bytes() == (straight / "slotid.safetensors").read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_killed_go_on_to_the_same_losses(tmp_path, monkeypatch, name):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    if name == "adamw":
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        call(*launcher, HERE / "toy_training.py", straight, name)
    else:
        call(HERE / "toy_training.py", straight, name, -2)
    assert call(HERE / "toy_training.py", killed, name, 6).split("\n")[-2] == "[-9, -9] [0, 0]"
    assert (killed / "losses.csv").read_bytes() == (straight / "losses.csv").read_bytes()
    assert (killed / "toy.safetensors").read_bytes() == (straight / "toy.safetensors").read_bytes()

    from slotid_core.training.loop import train

    config = experiment(optimiser__name=name)
    alone = Toy(config)
    train(alone, config, tmp_path / "alone")
    assert alone.asked == [range(8)] * 12
    both = zip(lines(tmp_path / "alone"), lines(straight), strict=True)
    # Muon orthogonalises in bfloat16, which magnifies the last digit.
    tolerance = 1e-5 if name == "adamw" else 1e-2
    for one, two in both:
        assert one["step"] == two["step"]
        for key in ("loss", "large", "norm"):
            assert float(one[key]) == pytest.approx(float(two[key]), rel=tolerance)
