"""The tables of the report, in Markdown, and the same figures as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..demo.prompts import POSES
from . import measures as m
from .bootstrap import Bootstrap, Estimate
from .conditions import FOLLOWED, FULL, NONE, PACKAGED_PHOTOS, WRONG, Condition
from .probe import EMBEDDING_FILE, PROBE_FILE, described
from .results import PACKAGED, ROUND_TRIP, TRUTH
from .targets import HUES, KINDS, NUMERIC, VOCABULARIES

READABLE = 0.7
# What a reader wants to tell apart at a glance.
COMPARED = (TRUTH, PACKAGED, NONE, WRONG, "oracle", FULL, "softmax", "mean", "frontal", "first")
# What the full encoder is not compared with.
_NOT_COMPARED = (TRUTH, ROUND_TRIP, PACKAGED, *PACKAGED_PHOTOS, FOLLOWED)


def words(name: str) -> str:
    """A parameter's name as words."""
    return name.replace("_", " ")


def cell(estimate: Estimate, digits: int = 2) -> str:
    """`0.91 [0.88, 0.93]`; a dash where there was nothing to measure."""
    if not np.isfinite(estimate.value):
        return "-"
    if not np.isfinite(estimate.low):
        return f"{estimate.value:.{digits}f}"
    # Adding zero turns -0.00 into 0.00.
    value, low, high = (round(number, digits) + 0.0 for number in (estimate.value, estimate.low, estimate.high))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass
class Tables:
    """All tables of one study; what is asked twice is computed once."""

    conditions: dict[str, Condition]
    bootstrap: Bootstrap
    _known: dict[tuple[str, str], Estimate] = field(default_factory=dict)

    def ask(self, key: str, name: str, measure: m.Measure, *, centred: bool = False) -> Estimate:
        """A measure of a condition, by the name that the CSV gives it."""
        if (key, name) not in self._known:
            condition = self.conditions[key]
            self._known[key, name] = condition.estimate(self.bootstrap, measure(condition), centred=centred)
        return self._known[key, name]

    def _lines(self, columns: dict[str, m.Measure], digits: int = 2) -> str:
        """A row for each condition, a column for each measure."""
        rows = [
            [condition.label, *(cell(self.ask(key, name, measure), digits) for name, measure in columns.items())]
            for key, condition in self.conditions.items()
        ]
        return table(["condition", *columns], rows)

    def summary(self) -> str:
        return self._lines(
            {
                "likeness (cosine)": m.similarity,
                "verification AUC": m.verification,
                "looks (mean R²)": m.looks,
                "hidden mark, kind": m.mark_kind(hidden=True),
                "hidden mark, hue": m.mark_hue(hidden=True),
                "dynamic signature (mean r)": m.signature,
            }
        )

    def parameters(self) -> str:
        """A row for each static parameter, a column for each condition of `COMPARED`; the CSV has them all."""
        asked = {name: {key: self.ask(key, name, m.agreement(name)) for key in self.conditions} for name in m.LOOKS}
        asked["**mean**"] = {key: self.ask(key, "looks (mean R²)", m.looks) for key in self.conditions}
        keys = [key for key in COMPARED if key in self.conditions]
        rows = [[words(name), *(cell(found[key]) for key in keys)] for name, found in asked.items()]
        return table(["R²", *(self.conditions[key].label for key in keys)], rows)

    def by_pose(self) -> str:
        parts = {"likeness": m.similarity, "looks": m.looks}
        return "\n\n".join(
            self._lines({f"{name}, {pose}": m.at_pose(part, pose) for pose in POSES}) for name, part in parts.items()
        )

    def by_gap(self) -> str:
        parts = {"likeness": m.similarity, "looks": m.looks}
        return "\n\n".join(
            self._lines({f"{name}, {a}-{b}°": m.at_gap(part, (a, b)) for a, b in m.GAPS})
            for name, part in parts.items()
        )

    def marks(self) -> str:
        hidden, seen = m.mark_kind(hidden=True), m.mark_kind(hidden=False)
        columns = {
            "hidden mark, kind": hidden,
            "hidden mark, hue": m.mark_hue(hidden=True),
            "seen mark, kind": seen,
            "seen mark, hue": m.mark_hue(hidden=False),
        }
        return self._lines(columns) + f"\n\nChance: kind {m.KIND_CHANCE:.2f}, hue {m.HUE_CHANCE:.2f}."

    def dynamics(self) -> str:
        columns = {words(name): m.movement(name) for name in m.MOVES}
        return self._lines({"dynamic signature (mean r)": m.signature, **columns})

    def faithfulness(self) -> str:
        truth = self.conditions[TRUTH]
        columns = {kind: m.faithful(kind) for kind in VOCABULARIES} | {"motion": m.motion(truth)}
        rows = []
        for key, condition in self.conditions.items():
            cells = [cell(self.ask(key, name, measure)) for name, measure in columns.items()]
            cells.append(cell(self.ask(key, "distance", m.distance(truth), centred=True)))
            rows.append([condition.label, *cells])
        return table(["condition", *columns, "distance"], rows)

    def differences(self) -> str:
        """The full encoder minus what was trained like it, and the packaged model minus itself with photos or nothing.

        All on the same people and noise.
        """
        pairs = [(FULL, key) for key in self.conditions if key not in (FULL, *_NOT_COMPARED)]
        pairs += [(PACKAGED, key) for key in (*PACKAGED_PHOTOS, WRONG, NONE)]
        pairs = [pair for pair in pairs if all(key in self.conditions for key in pair)]
        if not pairs:
            return "No results of the full encoder yet."
        columns = {
            "likeness": m.similarity,
            "looks": m.looks,
            "hidden mark, kind": m.mark_kind(hidden=True),
            "hidden mark, hue": m.mark_hue(hidden=True),
            "dynamic signature": m.signature,
        }
        rows = []
        for key, name in pairs:
            one, other = self.conditions[key], self.conditions[name]
            cells = [
                self.bootstrap.difference((measure(one), one.group, one.key), (measure(other), other.group, other.key))
                for measure in columns.values()
            ]
            rows.append([f"{key} minus {other.label}", *map(cell, cells)])
        return table(["difference", *columns], rows)

    def csv(self) -> str:
        """All that was asked so far: condition, measure, value, low, high, rows."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["condition", "measure", "value", "low", "high", "videos"])
        for (key, name), e in self._known.items():
            writer.writerow([key, name, *(f"{number:.4f}" for number in (e.value, e.low, e.high)), e.rows])
        return out.getvalue()


def judges() -> str:
    """What the judges make of real renders of held-out people."""
    probe, embedding = described(PROBE_FILE), described(EMBEDDING_FILE)
    read = probe["accuracy"]
    rows = [[words(name), f"{read[name]:.2f}", f"{read[name + ' correlation']:.2f}"] for name in NUMERIC]
    rows += [[words(name), f"{read[name]:.2f}", "-"] for name in HUES[: -len(KINDS)]]
    lines = [
        f"Probe: trained on {probe['trained_on']}; these figures on {probe['accuracy_on']}.",
        "",
        table(["parameter", "R²", "correlation"], rows),
        "",
        table(
            ["pose", "expression", "background", "kind of a clearly shown mark", "its hue"],
            [[f"{read[name]:.3f}" for name in (*VOCABULARIES, "mark kind", "mark hue")]],
        ),
        "",
        table(["smile asymmetry at", *POSES], [["R²", *(f"{read[f'smile_asymmetry {pose}']:.2f}" for pose in POSES)]]),
        "",
        f"Embedding: trained on {embedding['trained_on']}; single frames of different takes of "
        f"{embedding['accuracy_on']}.",
        "",
    ]
    gaps = [name.removeprefix("auc ") for name in embedding["accuracy"] if name.startswith("auc ")]
    kinds = ("auc", "eer", "accepted")
    shown = [[gap, *(f"{embedding['accuracy'][f'{kind} {gap}']:.3f}" for kind in kinds)] for gap in gaps]
    lines.append(table(["yaw apart (degrees)", "verification AUC", "equal error rate", "accepted at 1 % false"], shown))
    return "\n".join(lines)


def readable(data: dict) -> str:
    """What the readability gate found: R^2 from latents beside those from pixels, and the VAE's fidelity."""
    pixels = described(PROBE_FILE)["accuracy"]
    rows = [
        [words(name), f"{value:.2f}", f"{pixels[name]:.2f}", "yes" if value > READABLE else "**no**"]
        for name, value in data["latents"].items()
    ]
    lines = [
        data["says"],
        "",
        table(["parameter", "from a reference's latents", "from a target's pixels", f"above {READABLE}"], rows),
        "",
        table(
            ["PSNR in dB", *next(iter(data["psnr"].values()))],
            [[f"{size} px", *(f"{value:.1f}" for value in found.values())] for size, found in data["psnr"].items()],
        ),
    ]
    lines += [f"\n![the VAE on the fastest moments](images/{name})" for name in data["pictures"]]
    return "\n".join(lines)


def runs_table(conditions: dict[str, Condition]) -> str:
    """What was run."""
    rows = []
    for condition in conditions.values():
        seeds = ", ".join(str(run.seed) for run in condition.runs if run.seed is not None) or "-"
        steps = ", ".join(sorted({str(run.steps) for run in condition.runs if run.steps is not None})) or "-"
        rows.append([condition.label, seeds, steps, str(len(condition.group.person))])
    return table(["condition", "training seeds", "training steps", "videos"], rows)
