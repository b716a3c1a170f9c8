"""Experiments as TOML: strict reading, changes from the command line, and the copy a run keeps."""

import dataclasses

import pytest

from slotid_core.cli import main
from slotid_core.errors import SlotIDError
from slotid_core.training.config import SHIPPED, Run, build, differences, parse, read, to_toml
from slotid_core.training.tasks import TASKS, load_experiment

GOOD = """
task = "identity"
[data]
store = "store"
[backbone]
file = "demo"
[model]
[run]
steps = 10
batch = 4
trained_on = "nothing"
license = "none"
"""


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    return path


def test_defaults_fill_what_is_left_out(good):
    config = load_experiment(good)
    assert config.run.steps == 10 and config.optimiser.name == "adamw" and config.loss.text_dropout == 0.1
    assert config.model.encoder.slots == 16 and config.model.variant == "full"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("task=identities", "task = 'identities'"),
        ("run.stepps=3", "run.stepps"),
        ("running.steps=3", "the unknown key running"),
        ("run.steps=0", "run.steps = 0"),
        ("run.steps=2.5", "run.steps = 2.5"),
        ("run.steps=many", "run.steps = 'many'"),
        ("run.steps=true", "run.steps = True"),
        ("run.batch=-4", "run.batch = -4"),
        ("run.precision=bf17", "run.precision = 'bf17'"),
        ("run.trained_on=7", "run.trained_on = 7"),
        ("run.save_minutes=nan", "run.save_minutes = nan"),
        ("optimiser.name=sgd", "optimiser.name = 'sgd'"),
        ("optimiser.rate=fast", "optimiser.rate = 'fast'"),
        ("optimiser.average=1.5", "optimiser.average = 1.5"),
        ("optimiser.schedule=step", "optimiser.schedule = 'step'"),
        ("loss.text_dropout=2", "loss.text_dropout = 2.0"),
        ("loss.face=[1]", "loss.face = [1]"),
        ("model.encoder.slot=4", "model.encoder.slot"),
        ("model.encoder=4", "model.encoder = 4"),
        ("backbone.checkpointing=1", "backbone.checkpointing = 1"),
        ("data.demo.people=-1", "data.demo.people = -1"),
        ("samples.rows=0", "samples.rows = 0"),
    ],
)
def test_a_key_that_is_wrong_is_named(good, change, named):
    with pytest.raises(SlotIDError) as error:
        load_experiment(good, [change])
    assert named in error.value.found and error.value.remedy


@pytest.mark.parametrize("section", ["data.store", "backbone.file", "run.steps", "run.batch", "run.license"])
def test_a_key_that_is_missing_is_named(good, section):
    key = section.split(".")[1]
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key} =")]
    good.write_text("\n".join(lines))
    with pytest.raises(SlotIDError, match=f"no {section}"):
        load_experiment(good)


@pytest.mark.parametrize(
    ("change", "said"), [("run.steps", "section.key=value"), ("a.b.c.d=1", "section.key"), ("task.x=1", "no section")]
)
def test_a_change_that_is_none_is_refused(good, change, said):
    with pytest.raises(SlotIDError) as error:
        read(good, [change])
    assert said in str(error.value)


def test_files_that_are_no_config(tmp_path, capsys):
    broken = tmp_path / "broken.toml"
    broken.write_text("[run\nsteps = 1")
    for name, said in ((broken, "no TOML"), (tmp_path / "absent.toml", "no config"), ("unheard_of", "demo_identity")):
        assert main(["train", str(name)]) == 1
        assert said in capsys.readouterr().err


def test_changes_take_toml_values_and_plain_words(good):
    changes = ["run.seed=3", "data.store=runs/here", 'run.license="x y"', "optimiser.rate=1e-4", "samples.every=5"]
    config = load_experiment(good, changes)
    assert (config.run.seed, config.data.store, config.run.license) == (3, "runs/here", "x y")
    assert config.optimiser.rate == 1e-4 and config.samples.every == 5


def test_the_copy_reads_back_the_same(good, tmp_path):
    config = load_experiment(good, ["run.trained_on='a \"quoted\" wörd'", "optimiser.rate=1e-05"])
    copy = tmp_path / "copy.toml"
    copy.write_text(to_toml(config), encoding="utf-8")
    assert load_experiment(copy) == config


def test_only_what_makes_another_run_counts_as_different(good):
    def tables(*changes):
        return parse(to_toml(load_experiment(good, changes)))

    longer = tables("run.steps=99", "run.save_every=1", "samples.every=7", "run.accumulation=2")
    assert list(differences(tables(), longer)) == []
    assert [text.split()[0] for text in differences(tables(), tables("run.seed=1", "loss.shift=5"))] == [
        "loss.shift",
        "run.seed",
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_shipped_configs_are_whole(name):
    assert load_experiment(name).task in TASKS


def test_bounds_hold_for_every_number_of_a_run():
    for field in dataclasses.fields(Run):
        assert field.type == "str" or "Literal" in field.type or field.metadata["low"] is not None
    with pytest.raises(SlotIDError, match="a section"):
        build(Run, 3, "run")


def test_usage_is_explained(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and "cache" in said and "accelerate launch" in said
    with pytest.raises(SystemExit) as end:
        main(["train", "catch", "demo_identity"])
    assert end.value.code == 2
