"""`slotid eval` from the command line: what it teaches, refuses and leaves alone."""

import re
import shlex

import numpy as np
import pytest

from slotid_core import cli
from slotid_core.commands import eval as command
from slotid_core.demo.people import TEST, TRAIN
from slotid_core.evaluation.design import Design
from slotid_core.evaluation.results import Settings, open_study
from slotid_core.evaluation.sampling import Guidance


def slotid(*args):
    return cli.main([str(arg) for arg in args])


def usage_error(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        slotid(*args)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        slotid("eval", "--help")
    said = capsys.readouterr().out
    assert caught.value.code == 0 and "examples:" in said
    for option in ("--identity-seed", "--people", "--variants", "--weights-folder", "--report-only", "--probe-only"):
        assert option in said


def test_examples_are_valid_usage():
    examples = re.findall(r"^  slotid (eval.*?)(?:   .*)?$", command.EXAMPLES, re.MULTILINE)
    assert len(examples) >= 5
    for example in examples:
        cli.build_parser().parse_args(shlex.split(example))


def test_wrong_usage_is_told(capsys):
    assert "unknown variant nobody" in usage_error(capsys, "eval", "--variants", "nobody")
    assert "another person" in usage_error(capsys, "eval", "--people", "1")
    assert "1 to 1000" in usage_error(capsys, "eval", "--steps", "0")
    usage_error(capsys, "eval", "--report-only", "--probe-only")


def test_people_that_do_not_exist_are_refused(capsys, tmp_path):
    assert slotid("eval", "--identity-seed", 1_500_000, "--results", tmp_path) == 1
    assert "person seed 1500000" in capsys.readouterr().err


def test_training_people_are_measured_with_a_warning(capsys, tmp_path):
    # No results there: it ends with an error, after the warning.
    args = ("eval", "--people", 5, "--report-only", "--results", tmp_path / "none", "--report", tmp_path / "page.md")
    assert slotid(*args, "--identity-seed", TRAIN[-5]) == 1
    said = capsys.readouterr().err
    assert "Note: People 999995 to 999999 are of the training range" in said and "study.json" in said
    assert slotid(*args, "--identity-seed", TEST[7]) == 1
    assert "training range" not in capsys.readouterr().err


def test_a_folder_of_another_study_is_refused_before_anything_is_sampled(capsys, tmp_path):
    pytest.importorskip("diffusers")
    open_study(tmp_path, Settings(Design(TEST.start, 4), Guidance(), 64, {}))
    before = (tmp_path / "study.json").read_bytes()
    args = ("--results", tmp_path, "--people", 5, "--identity-seed", TEST.start)
    assert slotid("eval", *args) == 1
    said = capsys.readouterr().err
    assert "'people': 4" in said and "--results" in said
    assert (tmp_path / "study.json").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_an_empty_choice_of_encoders_is_told(capsys, tmp_path):
    (tmp_path / "weights").mkdir()
    assert slotid("eval", "--weights-folder", tmp_path / "weights", "--results", tmp_path / "results") == 1
    assert "no trained encoder" in capsys.readouterr().err


def test_the_packaged_model_is_measured_and_what_is_there_is_kept(capsys, tmp_path):
    """The whole way on two people and one step; again, and nothing is sampled twice."""
    pytest.importorskip("diffusers")
    pytest.importorskip("matplotlib")
    from slotid_core.evaluation.results import read_runs

    results, page = tmp_path / "results", tmp_path / "page.md"
    args = ("eval", "--people", 2, "--identity-seed", TEST[50], "--steps", 1, "--results", results, "--report", page)
    assert slotid(*args) == 0
    assert "packaged: done." in capsys.readouterr().out
    runs = {run.name: run for run in read_runs(results)}
    assert set(runs) == {
        "truth", "round_trip", "none", "packaged", "packaged.wrong", "packaged.first", "packaged.frontal",
    }  # fmt: skip
    assert all(len(run.columns["similarity"]) == 10 for run in runs.values())
    # The right clip and another person's give different videos of the same prompts and noise.
    # So do one frame of it and the whole.
    for other in ("packaged.wrong", "packaged.first", "packaged.frontal"):
        assert not np.allclose(runs["packaged"].columns["features"], runs[other].columns["features"]), other
    assert "2 people (seeds 2000050 to 2000051, held out" in page.read_text(encoding="utf-8")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert slotid(*args) == 0
    assert "packaged: there already." in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
