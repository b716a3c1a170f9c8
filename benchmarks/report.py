"""The rows of benchmarks/results as the tables of docs/performance.md.

    python -m benchmarks.report

Rewrites what stands between the page's markers from every device's rows, and nothing else.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable

from slotid_core.atomic import write_atomic
from slotid_core.evaluation.page import fill

from . import bench_accuracy, bench_memory, bench_overhead, bench_routing
from .bench_overhead import AS_TIMED
from .common import MISSED, RESULTS, ROOT

PAGE = ROOT / "docs" / "performance.md"
Row = dict[str, str]


def main() -> None:
    page = fill(PAGE.read_text(encoding="utf-8"), sections())
    write_atomic(PAGE, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    print(f"written: {PAGE}")


def sections() -> dict[str, str]:
    """Every section by its name."""
    made = {name: each_device(name, make) for name, make in TABLES.items()}
    devices = {rows[0]["device"] for name in TABLES for rows in read(name)}
    on_gpu = sorted(device for device in devices if not device.endswith(" threads"))
    if on_gpu:
        made["gpu"] = f"Measured on: {', '.join(on_gpu)}. What is not among the tables above was not measured there."
    else:
        made["gpu"] = (
            "**Nothing on this page was measured on a GPU.** What waits for one: the kernels' accuracy with a GPU's "
            "own arithmetic, their times and memory, the times of a step and of the encoding."
        )
    counted = next((rows for rows in read("overhead")), None)
    made["counted"] = count_table(counted) if counted else "No rows yet."
    return made


def read(name: str) -> list[list[Row]]:
    """The rows of each file of one measurement."""
    files = []
    for path in sorted(RESULTS.glob(f"{name}_*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            files.append([{**row, "file": path.stem} for row in csv.DictReader(file)])
    return files


def each_device(name: str, make: Callable[[list[Row]], str]) -> str:
    """The table of each device under a line that says where, when and by what it was measured."""
    parts = []
    for rows in read(name):
        about = rows[0]
        parts.append(
            f"{about['device']}; torch {about['torch']}, Triton {about['triton']}, commit {about['commit']}; "
            f"`python -m benchmarks.bench_{name}`:"
        )
        parts.append(make(rows))
        if (RESULTS / f"{about['file']}.png").is_file():
            parts.append(f"![{name}](../benchmarks/results/{about['file']}.png)")
    return "\n\n".join(parts) or "No rows yet."


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    rows = [list(head), *map(list, lines)]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def block(lines: Iterable[str]) -> str:
    return "\n".join(["```text", *lines, "```"])


def accuracy(rows: list[Row]) -> str:
    """The worst of each dtype."""
    names = {
        "out": "read-out", "gradient": "gradients", "row_mass": "row masses", "columns": "columns",
        "row_error": "reported marginal error", "splits": "splits apart",
    }  # fmt: skip
    names = {name: words for name, words in names.items() if any(row[name] for row in rows)}
    lines = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        there = [row for row in rows if row["dtype"] == dtype]
        worst = [max((float(row[name]) for row in there if row[name]), default=None) for name in names]
        cells = ["" if value is None else f"{value:.1e}" for value in worst]
        lines.append([dtype, ", ".join(dict.fromkeys(row["route"] for row in there)), *cells])
    missed = [
        f"{MISSED} {row['dtype']}, {row['shape']}, eps {row['eps']}, K = {row['iterations']}: {row['missed']}"
        for row in rows
        if row["missed"]
    ]
    shapes = "; ".join(f"{name} {size}" for name, size in bench_accuracy.SIZES.items())
    about = f"Worst over (problems, slots, tokens) {shapes}; eps 0.2 and 0.05; K 5 and 10. {len(rows)} cases"
    about += ", every bar held." if not missed else ":"
    return "\n\n".join(
        [table(["inputs", "backend", *names.values()], lines), about, *([block(missed)] if missed else [])]
    )


def routing(rows: list[Row]) -> str:
    """Times as parts of compiled log-domain torch's, and the bars."""
    routes = list(dict.fromkeys(row["route"] for row in rows))
    lines = []
    for at in dict.fromkeys((row["shape"], row["iterations"], row["mode"]) for row in rows):
        there = {row["route"]: row for row in rows if (row["shape"], row["iterations"], row["mode"]) == at}
        first = next(iter(there.values()))
        shape = f"{at[0]} ({first['problems']} x ({first['slots']}, {first['tokens']}))"
        times = [f"{float(there[r]['of_log_domain_compiled']):.2f}" if r in there else "" for r in routes]
        lines.append([shape, at[1], at[2], *times])
    about = "Time as a part of compiled log-domain torch's in the same run, problems x (slots, tokens):"
    return "\n\n".join([about, table(["shape", "K", "", *routes], lines), block(bench_routing.verdicts(rows))])


def memory(rows: list[Row]) -> str:
    kinds = list(dict.fromkeys((row["mode"], row["route"]) for row in rows))
    kinds.sort(key=lambda kind: kind[0] != "forward")
    lines = []
    for tokens in dict.fromkeys(row["tokens"] for row in rows):
        there = {(row["mode"], row["route"]): int(row["peak_bytes"]) for row in rows if row["tokens"] == tokens}
        lines.append([f"{int(tokens):,}", *(f"{there[kind] / 1e6:.2f} MB" for kind in kinds)])
    head = ["tokens", *(f"{mode}, {route}" for mode, route in kinds)]
    return "\n\n".join([table(head, lines), block(bench_memory.verdicts(rows))])


def count_table(rows: list[Row]) -> str:
    """Operations of one step at full size; the same on every machine."""
    there = {(row["model"], row["mode"]): row for row in rows if row["kind"] == "operations"}
    models = list(dict.fromkeys(model for model, _ in there))
    lines = []
    for mode in bench_overhead.MODES:
        off = mode == "off"
        cells = [f"{float(there[m, mode]['value']):.1f} TFLOP" if off else _factor(there[m, mode]) for m in models]
        lines.append(["without an identity" if off else mode, *cells])
    lines.append(
        ["encoding an 81-frame clip, once", *(f"{_share(there[m, 'encode a clip'])} of a step" for m in models)]
    )
    added = [f"{100 * float(there[model, 'slot-id']['added_parameters']):.2f} %" for model in models]
    lines.append(["added parameters", *added])
    commit = f"Counted at commit {rows[0]['commit']}:"
    return "\n\n".join([commit, table(["", *(f"Wan 2.1 {model}" for model in models)], lines)])


def overhead(rows: list[Row]) -> str:
    """Times of one step beside the step without, and the bars."""
    timed = [row for row in rows if row["kind"] == "time" and row["mode"] in bench_overhead.MODES]
    modes = [mode for mode in bench_overhead.MODES if mode != "off"]
    lines = []
    for at in dict.fromkeys((row["model"], row["blocks"], row["tokens"]) for row in timed):
        there = {row["mode"]: row for row in timed if (row["model"], row["blocks"], row["tokens"]) == at}
        cells = [_factor(there[mode]) if mode in there else "" for mode in modes]
        count = next(
            _factor(row) for row in rows if (row["kind"], row["model"], row["tokens"]) == (AS_TIMED, at[0], at[2])
        )
        lines.append([at[0], at[1], f"{int(at[2]):,}", count, *cells])
    encoding = [
        f"Encoding an 81-frame clip, {row['model']}: {_share(row)} of a step's time"
        + (", by the rates reached on a smaller clip and a shorter step." if row["kind"] != "time" else ".")
        for row in rows
        if row["mode"] == "encode a clip" and row["kind"] != "operations"
    ]
    times = table(["model", "blocks", "tokens", "slot-id, counted", *modes], lines)
    return "\n\n".join([times, "  \n".join(encoding), block(bench_overhead.verdicts(rows))])


def _factor(row: Row) -> str:
    return f"x {float(row['of_off']):.4f}" if row["mode"] == "slot-id" else f"x {float(row['of_off']):.3f}"


def _share(row: Row) -> str:
    return f"{float(row['of_off']):.3f}"


TABLES = {"accuracy": accuracy, "routing": routing, "memory": memory, "overhead": overhead}

if __name__ == "__main__":
    main()
