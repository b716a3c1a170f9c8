"""Measures of agreement, each as a function of row weights, so that one bootstrap serves them all.

A metric takes weights [R, n] of its n rows (videos) and gives R values: weights of one give the plain value, counts of
resampled people give a bootstrap's. Where the weights leave nothing to measure the value is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Metric = Callable[[Array], Array]


def r_squared(truth: Array, made: Array) -> Metric:
    """1 - sum (made - truth)^2 / sum (truth - mean truth)^2: 1 perfect, 0 as good as the mean, below 0 worse."""
    # Centring first keeps the sums accurate; it changes nothing else.
    truth, made = truth - np.mean(truth), made - np.mean(truth)

    def value(sums: Array) -> Array:
        count, total, squares, errors = np.moveaxis(sums, -1, 0)
        return 1 - errors / (squares - total**2 / count)

    return _of_sums(value, np.ones_like(truth), truth, truth**2, (made - truth) ** 2)


def circular_r_squared(truth: Array, made: Array) -> Metric:
    """R^2 for hues in [0, 1): 1 - sum (1 - cos d) / sum (1 - cos d0).

    d is the angle between made and truth, d0 that between truth and its own circular mean, the best constant. 1
    perfect, 0 as good as that constant; a guess unrelated to evenly spread hues gives 0.
    """
    a, b = 2 * np.pi * truth, 2 * np.pi * made

    def value(sums: Array) -> Array:
        count, agreement, cosine, sine = np.moveaxis(sums, -1, 0)
        return 1 - (count - agreement) / (count - np.hypot(cosine, sine))

    return _of_sums(value, np.ones_like(a), np.cos(b - a), np.cos(a), np.sin(a))


def correlation(truth: Array, made: Array) -> Metric:
    """Pearson's correlation."""
    t, m = truth - np.mean(truth), made - np.mean(made)

    def value(sums: Array) -> Array:
        count, st, sm, stt, smm, stm = np.moveaxis(sums, -1, 0)
        spread = (stt - st**2 / count) * (smm - sm**2 / count)
        return (stm - st * sm / count) / np.sqrt(np.where(spread > 1e-12, spread, np.nan))

    return _of_sums(value, np.ones_like(t), t, m, t * t, m * m, t * m)


def mean_of(values: Array) -> Metric:
    """The mean; of truth values 0 and 1, their share (an accuracy)."""
    return _of_sums(lambda sums: sums[..., 1] / sums[..., 0], np.ones(len(values)), values.astype(float))


def ratio_of(above: Array, below: Array) -> Metric:
    """The ratio of two means."""
    return _of_sums(lambda sums: sums[..., 0] / sums[..., 1], above, below)


def plain(metric: Callable[[Array, Array], Metric], truth: Array, made: Array) -> float:
    """A metric of truth and made without any resampling."""
    return float(metric(truth, made)(np.ones((1, len(truth))))[0])


def hue_hit(truth: Array, made: Array, within: float = 0.1) -> Array:
    """Whether hues in [0, 1) agree to less than `within` of the circle: [n] bool. Chance is 2 * within."""
    return np.abs((made - truth + 0.5) % 1.0 - 0.5) < within


def frechet(features: Array, reference: Array) -> Metric:
    """Frechet distance between Gaussians fitted to features [n, d] and to reference features [m, d].

    |mean difference|^2 + trace(A + B - 2 (A^1/2 B A^1/2)^1/2) of the covariances A and B.
    """
    width = features.shape[1]
    mean = reference.mean(0)
    features, reference = features - mean, reference - mean
    covariance = np.cov(reference.T, bias=True).reshape(width, width)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T

    def value(sums: Array) -> Array:
        count = sums[..., :1]
        m = sums[..., 1 : 1 + width] / count
        second = (sums[..., 1 + width :] / count).reshape(*sums.shape[:-1], width, width)
        own = second - m[..., :, None] * m[..., None, :]
        # Eigenvalues of a product of two covariances are real and not negative, up to rounding.
        cross = np.linalg.eigvalsh(root @ own @ root)
        traces = np.trace(own, axis1=-2, axis2=-1) + np.trace(covariance)
        return (m**2).sum(-1) + traces - 2 * np.sqrt(np.clip(cross, 0, None)).sum(-1)

    products = (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)
    return _of_sums(value, np.ones(len(features)), *features.T, *products.T)


@dataclass(frozen=True)
class Verification:
    """Similarities of videos to their own person (genuine [n]) and to others (impostors [n, k])."""

    genuine: Array
    impostors: Array

    def auc(self, weights: Array) -> Array:
        """Chance that a genuine similarity is above an impostor's; ties count half."""
        order = np.argsort(self.impostors, axis=None, kind="stable")
        scores = self.impostors.ravel()[order]
        mass = np.cumsum(self._impostor_weights(weights)[:, order], axis=1)
        mass = np.concatenate([np.zeros((len(weights), 1)), mass], axis=1)
        below = mass[:, np.searchsorted(scores, self.genuine, side="left")]
        upto = mass[:, np.searchsorted(scores, self.genuine, side="right")]
        return (weights * (below + upto)).sum(1) / (2 * weights.sum(1) * mass[:, -1])

    def accepted(self, weights: Array, false_rate: float = 0.01) -> Array:
        """Share of genuine similarities above the threshold that `false_rate` of the impostors pass."""
        order = np.argsort(-self.impostors, axis=None, kind="stable")
        scores = self.impostors.ravel()[order]
        mass = np.cumsum(self._impostor_weights(weights)[:, order], axis=1)
        passed = (mass <= false_rate * mass[:, -1:]).sum(1)
        threshold = scores[np.minimum(passed, len(scores) - 1)]
        return (weights * (self.genuine[None] > threshold[:, None])).sum(1) / weights.sum(1)

    def _impostor_weights(self, weights: Array) -> Array:
        return np.repeat(weights, self.impostors.shape[1], axis=1)


def _of_sums(value: Callable[[Array], Array], *columns: Array) -> Metric:
    """A metric that depends on weighted sums of per-row columns alone."""
    table = np.stack([np.asarray(column, dtype=float) for column in columns], axis=-1)

    def metric(weights: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return value(weights @ table)

    return metric
