"""The benchmarks: what is counted holds its bars, a missed bar is seen, and the page is what the rows say."""

import csv

import pytest
import torch

from benchmarks import bench_accuracy, bench_memory, bench_overhead, bench_routing, common, quick, report, wan_shapes
from benchmarks.wan_shapes import Size
from slotid_core.config import ConditioningConfig
from slotid_core.evaluation.page import fill, section_names

CPU = torch.device("cpu")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results of its own, and nothing compiled, which would take longer than all that is tested here."""
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    return tmp_path / "results"


def test_what_is_counted_holds_its_bars(capsys):
    assert all(quick.overhead())
    assert capsys.readouterr().out.count(common.HELD) == 6


def test_a_dearer_identity_misses_them(monkeypatch, capsys):
    monkeypatch.setattr(quick, "SIZES", {"1.3B": wan_shapes.SIZES["1.3B"]})
    monkeypatch.setattr(wan_shapes, "ConditioningConfig", lambda: ConditioningConfig(inner_width=1536, heads=12))
    monkeypatch.setattr(bench_overhead, "encoding", lambda *_: lambda: None)
    assert quick.overhead() == [False, True, False]
    assert capsys.readouterr().out.count(common.MISSED) == 2


@pytest.mark.parametrize("missed", ["routing", "memory", "overhead", None])
def test_a_missed_bar_is_an_exit_of_1(monkeypatch, missed):
    for part in ("routing", "memory", "overhead"):
        monkeypatch.setattr(quick, part, lambda part=part: [quick.bar(part, 1.01 if part == missed else 1.0, 1.0)])
    monkeypatch.setattr(quick, "timed_overhead", lambda: True)
    assert quick.main() == (1 if missed else 0)


def test_memory_that_grows_is_a_missed_bar():
    def rows(both, forward):
        made = []
        for tokens in (bench_memory.TOKENS, 262144):
            for route, mode, peak in (
                ("reference", "forward", forward),
                ("reference", "forward+backward", both),
                (bench_memory.LOG_DOMAIN, "forward+backward", 100),
            ):
                row = {"tokens": tokens, "mode": mode, "route": route, "peak_bytes": peak}
                made.append(row | {"of_gradients_and_state": ""})
        return made

    held = [line.startswith(common.HELD) for line in bench_memory.verdicts(rows(both=20, forward=1 << 24))]
    assert held == [True, True]
    missed = [line.startswith(common.MISSED) for line in bench_memory.verdicts(rows(both=21, forward=1 << 25))]
    assert missed == [True, True]


@pytest.mark.parametrize(("ours", "held"), [(1.0, 4), (1.01, 0)])
def test_the_bars_of_a_gpu(ours, held):
    """Rows as a GPU would give them, at each bar and a percent beyond."""
    rows = []
    for mode, other in {"forward": 3.0, "forward+backward": 2.0}.items():
        times = {"triton": ours, "log-domain compiled": other}
        if mode == "forward":
            times |= {"triton, graph": ours, "log-domain compiled, graph": other, "flash-sinkhorn": 2.0}
        for route, time in times.items():
            row = {"shape": "C", "iterations": "5", "mode": mode, "route": route, "milliseconds": str(time)}
            rows.append(row | {"of_floor": str(3.5 * time)})
    lines = bench_routing.verdicts(rows)
    assert len(lines) == 4
    assert sum(line.startswith(common.HELD) for line in lines) == held


def test_a_reference_is_as_large_a_part_of_few_tokens():
    tokens = [wan_shapes.tokens_of(bench_overhead.with_reference((21, 60, 104), n)) for n in (0, 1, 4, 21)]
    assert tokens == [32760, 34320, 39000, 65520]
    few = [wan_shapes.tokens_of(bench_overhead.with_reference((1, 60, 104), n)) for n in (0, 1, 4, 21)]
    assert few == [1560, 1612, 1872, 3120]


def test_every_measurement_writes_its_rows_and_the_report_shows_them(results, monkeypatch):
    """At sizes that take no time; the figures mean nothing."""
    monkeypatch.setattr(bench_accuracy, "SIZES", {"odd": (2, 5, 37)})
    monkeypatch.setattr(bench_routing, "SHAPES", {"A": (2, 4, 16)})
    tiny = Size(256, 2, 128, 1e6)
    monkeypatch.setattr(bench_overhead, "SIZES", {"1.3B": tiny})
    monkeypatch.setattr(bench_overhead, "LATENT", (3, 4, 4))
    monkeypatch.setattr(bench_overhead, "CPU_LATENTS", {"1.3B": ((1, 4, 4),)})
    monkeypatch.setattr(bench_overhead, "REFERENCES", {"1.3B": ((1, 4, 4),)})
    for name in ("FRAMES", "CPU_FRAMES"):
        monkeypatch.setattr(bench_overhead, name, 1)
    for name in ("CROP", "CPU_CROP"):
        monkeypatch.setattr(bench_overhead, name, 32)
    modes = ("forward", "forward+backward")
    common.write("accuracy", [bench_accuracy.measure("odd", 0.2, 2, torch.float32, CPU)], CPU)
    common.write("routing", bench_routing.measure("A", 5, modes, CPU, torch.float32, 0.0), CPU)
    common.write("memory", bench_memory.measure(64, 2, CPU, torch.float32), CPU)
    common.write("overhead", bench_overhead.measure("1.3B", 1, CPU, torch.float32, 0.0), CPU)
    files = {path.name.split("_")[0]: path for path in results.glob("*.csv")}
    assert set(files) == set(report.TABLES)
    for path in files.values():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert all(row[name] for row in rows for name in ("device", "torch", "triton", "commit")), path
    made = report.sections()
    assert "every bar held" in made["accuracy"] and "| A (2 x (4, 16)) | 5 | forward |" in made["routing"]
    assert "| 64 |" in made["memory"] and "Nothing on this page was measured on a GPU" in made["gpu"]
    assert "added parameters" in made["counted"] and "of a step's time, by the rates" in made["overhead"]


def test_the_page_is_what_the_rows_say():
    """`python -m benchmarks.report` changes nothing."""
    page = report.PAGE.read_text(encoding="utf-8")
    made = report.sections()
    assert fill(page, made) == page and set(section_names(page)) == set(made)
