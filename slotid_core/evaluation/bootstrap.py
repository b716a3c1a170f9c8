"""Confidence intervals over identities and training seeds, by a cluster bootstrap.

The videos of one person are not independent, so people are resampled, with all their videos; where a variant was
trained from several seeds, the seeds are resampled too. Two variants are compared on the same resampled people.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from .metrics import Array, Metric

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, and how many rows it stands on."""

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Group:
    """Which person and which training seed each of n rows belongs to: integers [n]."""

    person: Array
    seed: Array

    def __getitem__(self, rows: Array) -> Group:
        return Group(self.person[rows], self.seed[rows])


class Bootstrap:
    """Resampled people, shared by everything that is measured with one instance.

    Args:
        people: every person that rows may belong to.
        resamples: how many times they are drawn.
    """

    def __init__(self, people: Array, resamples: int = RESAMPLES) -> None:
        self.people = np.unique(people)
        self.resamples = resamples
        draws = np.random.default_rng(0).integers(len(self.people), size=(resamples, len(self.people)))
        self.counts = np.stack([np.bincount(draw, minlength=len(self.people)) for draw in draws]).astype(float)

    def weights(self, group: Group, label: str) -> Array:
        """Weights [resamples, n]. Seeds are drawn anew for each label: those of two variants have no common order."""
        weights = self.counts[:, np.searchsorted(self.people, group.person)]
        seeds, index = np.unique(group.seed, return_inverse=True)
        if len(seeds) > 1:
            draws = np.random.default_rng([1, zlib.crc32(label.encode())]).integers(
                len(seeds), size=(self.resamples, len(seeds))
            )
            counts = np.stack([np.bincount(draw, minlength=len(seeds)) for draw in draws])
            weights = weights * counts[:, index]
        return weights

    def estimate(self, metric: Metric, group: Group, label: str = "", *, centred: bool = False) -> Estimate:
        """A metric with its percentile interval.

        Args:
            centred: move the interval by the bootstrap's bias. For distances: a resampled crowd has repeated people, so
                every resampled distance is larger than it should be.
        """
        value, drawn = self._both(metric, group, label)
        if centred:
            drawn = drawn + (value - np.nanmean(drawn))
        return self._interval(value, drawn, len(group.person))

    def difference(self, one: tuple[Metric, Group, str], other: tuple[Metric, Group, str]) -> Estimate:
        """one - other, each (metric, rows, label), on the same resampled people."""
        (a, drawn_a), (b, drawn_b) = self._both(*one), self._both(*other)
        # Where a draw of few people leaves nothing to measure there is infinity or NaN, which the interval leaves out.
        with np.errstate(invalid="ignore"):
            return self._interval(a - b, drawn_a - drawn_b, len(one[1].person))

    def _both(self, metric: Metric, group: Group, label: str) -> tuple[float, Array]:
        if not len(group.person):
            return float("nan"), np.full(self.resamples, np.nan)
        plain = metric(np.ones((1, len(group.person))))[0]
        weights = self.weights(group, label)
        # In slices: some metrics look at many more pairs than there are rows.
        return float(plain), np.concatenate([metric(weights[i : i + 100]) for i in range(0, len(weights), 100)])

    def _interval(self, value: float, drawn: Array, rows: int) -> Estimate:
        finite = drawn[np.isfinite(drawn)]
        if not len(finite):
            return Estimate(value, float("nan"), float("nan"), rows)
        low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(value, float(low), float(high), rows)
