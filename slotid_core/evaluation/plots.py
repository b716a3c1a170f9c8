"""The plots of the report: points with their 95 % intervals. Files of the same results have the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_atomic
from ..errors import load_package
from . import measures as m
from .bootstrap import Estimate
from .conditions import FULL, LABELS, NONE, WRONG
from .results import PACKAGED, TRUTH
from .tables import COMPARED, Tables, words

_COLOURS = {
    TRUTH: "#5f6368", "oracle": "#9334e6", FULL: "#1a73e8", "mean": "#12b5cb", "frontal": "#e8710a", "first": "#f9ab00",
    NONE: "#9aa0a6", WRONG: "#d93025", PACKAGED: "#188038", "softmax": "#b06000",
}  # fmt: skip


def write_plots(tables: Tables, folder: Path) -> list[str]:
    """Write all plots into a folder; returns their names.

    Raises:
        SlotIDError: matplotlib is not installed.
    """
    load_package("matplotlib", "eval")
    import matplotlib

    # Without a display, and the same on every computer.
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "svg.hashsalt": "slot-id"})
    drawn = {
        "evaluation_looks.png": _by_parameter(tables, m.LOOKS, m.agreement, "R² of what a person looks like"),
        "evaluation_moves.png": _by_parameter(tables, m.MOVES, m.movement, "correlation with how the person moves"),
        "evaluation_gap.png": _by_gap(tables),
        "evaluation_marks.png": _marks(tables),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        write_atomic(folder / name, lambda path, f=figure: f.savefig(path, dpi=110, metadata={"Software": None}))
    return list(drawn)


def _present(tables: Tables) -> list[str]:
    return [key for key in COMPARED if key in tables.conditions]


def _points(
    axes: Any, key: str, places: np.ndarray, estimates: list[Estimate], *, flat: bool, line: bool = False
) -> None:
    values = np.array([e.value for e in estimates])
    spread = np.abs(np.array([[e.low, e.high] for e in estimates]).T - values)
    style = {"color": _COLOURS[key], "label": LABELS[key], "fmt": "o-" if line else "o", "markersize": 3.5}
    style |= {"capsize": 1.5, "linewidth": 1}
    if flat:
        axes.errorbar(values, places, xerr=spread, **style)
    else:
        axes.errorbar(places, values, yerr=spread, **style)


def _by_parameter(tables: Tables, names: tuple[str, ...], measure: Any, title: str) -> Any:
    from matplotlib.figure import Figure

    keys = _present(tables)
    figure = Figure(figsize=(8, 0.42 * len(names) + 1.6), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    for place, key in enumerate(keys):
        shift = (place - (len(keys) - 1) / 2) * 0.8 / len(keys)
        # The name that the tables give the same figure, so that it is computed once.
        asked = [tables.ask(key, name if measure is m.agreement else words(name), measure(name)) for name in names]
        _points(axes, key, rows + shift, asked, flat=True)
    axes.set_yticks(rows, [words(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(-0.6, 1.05)
    axes.axvline(0, color="#dadce0", linewidth=1, zorder=0)
    axes.grid(axis="x", color="#f1f3f4", zorder=0)
    axes.set_xlabel(f"{title} (left of -0.6: off the plot)")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def _by_gap(tables: Tables) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    shown = (("likeness", m.similarity, "likeness (cosine)"), ("looks", m.looks, "looks (mean R²)"))
    for axes, (name, measure, label) in zip(figure.subplots(1, 2), shown, strict=True):
        for key in _present(tables):
            asked = [tables.ask(key, f"{name}, {a}-{b}°", m.at_gap(measure, (a, b))) for a, b in m.GAPS]
            _points(axes, key, np.array([(a + b) / 2 for a, b in m.GAPS]), asked, flat=False, line=True)
        axes.set_xlabel("degrees between the reference's first frame and the target")
        axes.set_ylabel(label)
        axes.set_ylim(max(-0.6, axes.get_ylim()[0]), 1.02)
        axes.grid(color="#f1f3f4")
        handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _marks(tables: Tables) -> Any:
    from matplotlib.figure import Figure

    keys = list(tables.conditions)
    figure = Figure(figsize=(8, 0.28 * len(keys) + 1.2), layout="constrained")
    shown = (("kind", m.mark_kind, m.KIND_CHANCE), ("hue", m.mark_hue, m.HUE_CHANCE))
    for axes, (name, measure, chance) in zip(figure.subplots(1, 2, sharey=True), shown, strict=True):
        for hidden, colour, shift in ((True, "#1a73e8", -0.12), (False, "#9aa0a6", 0.12)):
            which = "hidden" if hidden else "seen"
            asked = [tables.ask(key, f"{which} mark, {name}", measure(hidden=hidden)) for key in keys]
            values = np.array([e.value for e in asked])
            spread = np.abs(np.array([[e.low, e.high] for e in asked]).T - values)
            label = f"side that the first frame {'hides' if hidden else 'shows'}"
            style = {"color": colour, "fmt": "o", "markersize": 3.5, "capsize": 1.5, "linewidth": 1, "label": label}
            axes.errorbar(values, np.arange(len(keys)) + shift, xerr=spread, **style)
        axes.axvline(chance, color="#d93025", linewidth=1, linestyle=":", label="chance")
        axes.set_xlim(0, 1.02)
        axes.set_xlabel(f"accuracy of the mark's {name}")
        axes.grid(axis="x", color="#f1f3f4")
        axes.set_yticks(np.arange(len(keys)), [LABELS[key] for key in keys])
        handles = axes.get_legend_handles_labels()
    axes.invert_yaxis()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    return figure
