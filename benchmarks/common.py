"""What the benchmarks share: who measured, clocks, memory, rows on disk."""

from __future__ import annotations

import csv
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
HELD, MISSED = "held  ", "MISSED"
Run = Callable[[], Any]


def device_to_measure() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine(device: torch.device) -> dict[str, str]:
    """What a row says of where it was measured."""
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    threads = f", {torch.get_num_threads()} threads" if device.type != "cuda" else ""
    return {
        "device": _name(device) + threads,
        "torch": torch.__version__,
        "triton": triton_version,
        "commit": _commit(),
    }


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    code = ("slotid_core", "benchmarks", ":!benchmarks/results")
    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    return commit + ("+changes" if git("status", "--porcelain", "--", *code) else "")


def milliseconds(runs: dict[str, Run], device: torch.device, seconds: float = 3.0, least: int = 5) -> dict[str, float]:
    """Median time of each run. They take turns, so that what slows the machine slows them all.

    Args:
        runs: by name; each is called once first, unmeasured.
        seconds: for each run.
        least: turns, however long they take.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    while any(len(t) < least for t in times.values()) or time.perf_counter() - begin < seconds * len(runs):
        for name, run in runs.items():
            times[name].append(_once(run, device))
    return {name: statistics.median(t) for name, t in times.items()}


def _once(run: Run, device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        run()
        return (time.perf_counter() - begin) * 1e3
    # What the run before left in the cache of the device must not help this one.
    torch.empty(1 << 28, dtype=torch.uint8, device=device).zero_()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end)


def graphed(run: Run) -> tuple[Run, Any]:
    """The run as one CUDA graph (what the device needs, without the launches), and what a replay writes to."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = run()
    return graph.replay, made


def peak_bytes(run: Run, device: torch.device) -> int:
    """The most memory that a run holds at once beyond what was there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def verdict(what: str, value: float, sign: str, limit: float) -> str:
    """A line that says whether a bar is held."""
    held = value <= limit if sign == "<=" else value >= limit
    return f"{HELD if held else MISSED} {what}: {value:.4g} {sign} {limit:g}"


def write(name: str, rows: Iterable[dict[str, Any]], device: torch.device) -> Path:
    """Rows to `results/<name>_<device>.csv`, in place of an earlier run's on the same device."""
    rows, about = list(rows), machine(device)
    slug = re.sub(r"[^a-z0-9]+", "-", _name(device).lower()).strip("-")
    path = RESULTS / f"{name}_{slug}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *about])
        writer.writeheader()
        writer.writerows({**row, **about} for row in rows)
    print(f"written: {path}")
    return path


def bars(path: Path, title: str, groups: dict[str, dict[str, float]], unit: str, *, line: float | None = None) -> None:
    """A bar chart beside the CSV, one group of bars for each entry; skipped, and said, without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure, axes = pyplot.subplots(figsize=(max(6.0, 1.6 * len(groups)), 4), layout="constrained")
    for i, name in enumerate(names):
        shift = (i - (len(names) - 1) / 2) * 0.8 / len(names)
        there = {j + shift: group[name] for j, group in enumerate(groups.values()) if name in group}
        axes.bar(list(there), list(there.values()), 0.8 / len(names), label=name)
    if line is not None:
        axes.axhline(line, color="black", linewidth=0.8, linestyle=":")
    values = [value for group in groups.values() for value in group.values()]
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(path.with_suffix(".png"), dpi=110)
    pyplot.close(figure)
