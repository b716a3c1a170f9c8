"""What is measured of a condition: each measure makes a metric over all its rows, some of which may not count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..demo.people import MARKS
from ..demo.prompts import EXPRESSIONS, POSES
from .conditions import Condition
from .metrics import (
    Array,
    Metric,
    Verification,
    circular_r_squared,
    correlation,
    frechet,
    hue_hit,
    mean_of,
    r_squared,
    ratio_of,
)
from .targets import BOB_VISIBLE, HUES, KINDS, SIDES, SMILE_ONLY, STATIC_NUMERIC, VOCABULARIES
from .visible import hidden_side, poses_showing

# Static parameters that every pose shows; marks have measures of their own.
LOOKS = (*STATIC_NUMERIC, *HUES[: -len(KINDS)])
SIGNATURE = ("smile_asymmetry", "smile_onset", "bob_amplitude", "bob_frequency", "blink_rate")
MOVES = (*SIGNATURE, "brow_coupling")
GAPS = ((0, 30), (30, 60), (60, 90), (90, 125))
# A guess knows nothing: each kind of mark is as frequent as the others, and 0.1 to both sides is a fifth of all hues.
KIND_CHANCE, HUE_CHANCE = 1 / len(MARKS), 0.2

Measure = Callable[[Condition], Metric]


def counted(metric: Metric, rows: Array) -> Metric:
    """The metric over the rows [n] bool that count."""
    return lambda weights: metric(weights * rows)


def average(metrics: Sequence[Metric]) -> Metric:
    """The mean of several metrics over the same rows."""
    return lambda weights: np.mean([metric(weights) for metric in metrics], axis=0)


def agreement(name: str) -> Measure:
    """R^2 of a static parameter, circular for a hue."""
    kind = circular_r_squared if name in HUES else r_squared
    return lambda condition: kind(condition.true[name], condition.made[name])


def looks(condition: Condition) -> Metric:
    """Mean R^2 of all static parameters but the marks."""
    return average([agreement(name)(condition) for name in LOOKS])


def movement(name: str) -> Measure:
    """Correlation of a dynamic parameter with the person's own, over the videos that can show it."""

    def measure(condition: Condition) -> Metric:
        true = condition.true
        rows = np.ones(len(true["person"]), bool)
        if name in SMILE_ONLY:
            rows = true["expression"] == EXPRESSIONS.index("smile")
        elif name == "bob_frequency":
            rows = true["bob_amplitude"] > BOB_VISIBLE
        return counted(correlation(true[name], condition.made[name]), rows)

    return measure


def signature(condition: Condition) -> Metric:
    """Mean correlation of smile asymmetry and onset, bob amplitude and frequency, and blink rate."""
    return average([movement(name)(condition) for name in SIGNATURE])


def mark_rows(condition: Condition, side: str, *, hidden: bool) -> Array:
    """Rows [n] bool in which the reference's first frame hides (or shows) a side, and the target shows it clearly."""
    true = condition.true
    clear = np.isin(np.array(tuple(POSES))[true["pose"]], poses_showing(side))
    behind = np.array([hidden_side(yaw) == side for yaw in true["start_yaw"]])
    return clear & (behind == hidden)


def mark_kind(*, hidden: bool) -> Measure:
    """Accuracy of the mark's kind on the side that the reference's first frame hides (or shows)."""

    def measure(condition: Condition) -> Metric:
        sides = zip(SIDES, KINDS, strict=True)
        parts = [(condition.made[k] == condition.true[k], mark_rows(condition, s, hidden=hidden)) for s, k in sides]
        right = np.select([rows for _, rows in parts], [hit for hit, _ in parts], False)
        return counted(mean_of(right), np.any([rows for _, rows in parts], axis=0))

    return measure


def mark_hue(*, hidden: bool) -> Measure:
    """Share of hues within 0.1 of the circle, where the person has a mark on that side."""

    def measure(condition: Condition) -> Metric:
        hits, counts = [], []
        for side, kind in zip(SIDES, KINDS, strict=True):
            hue = f"{kind}_hue"
            hits.append(hue_hit(condition.true[hue], condition.made[hue]))
            counts.append(mark_rows(condition, side, hidden=hidden) & (condition.true[kind] != MARKS.index("none")))
        return counted(mean_of(np.select(counts, hits, False)), np.any(counts, axis=0))

    return measure


def similarity(condition: Condition) -> Metric:
    """Mean cosine of a video's embedding to that of the person's reference clip."""
    return mean_of(condition.made["similarity"])


def verification(condition: Condition) -> Metric:
    """AUC of telling the person from others by that cosine."""
    return Verification(condition.made["similarity"], condition.made["impostors"]).auc


def accepted(condition: Condition) -> Metric:
    """Share of videos above the threshold that 1 % of other people pass."""
    return Verification(condition.made["similarity"], condition.made["impostors"]).accepted


def faithful(kind: str) -> Measure:
    """Accuracy of the prompt's pose, expression or background, as the probe reads the video."""
    return lambda condition: mean_of(condition.made[kind] == condition.true[kind])


def motion(truth: Condition) -> Measure:
    """Mean absolute difference of neighbouring frames, as a share of the real renders' own."""
    real = truth.made["motion"]

    def measure(condition: Condition) -> Metric:
        times = len(condition.made["motion"]) // len(real)
        return ratio_of(condition.made["motion"], np.tile(real, times))

    return measure


def distance(truth: Condition) -> Measure:
    """Frechet distance to the real renders in sixteen principal components of the probe's features."""
    return lambda condition: frechet(condition.made["features"], truth.made["features"])


def at_pose(measure: Measure, pose: str) -> Measure:
    """The measure over the videos of one pose."""
    place = VOCABULARIES["pose"].index(pose)
    return lambda condition: counted(measure(condition), condition.true["pose"] == place)


def at_gap(measure: Measure, gap: tuple[int, int]) -> Measure:
    """The measure over the videos whose yaw is so many degrees from that of the reference's first frame."""

    def within(condition: Condition) -> Metric:
        away = np.abs(condition.true["yaw"] - condition.true["start_yaw"])
        return counted(measure(condition), (away >= gap[0]) & (away < gap[1]))

    return within
