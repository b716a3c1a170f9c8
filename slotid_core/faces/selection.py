"""Which frames of a clip are used: whole latent frames without flaws, chosen to cover poses and expressions.

The backbone's VAE makes one latent frame of the first frame and one of every four that follow, so frames are kept or
left out in fours: within a four the person moves as in the clip. Everything is decided by comparisons with fixed ties
(the earlier frame wins); the same clip gives the same frames.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .checkup import NOT_NEEDED, Checkup, FrameCheck

GROUP = 4
# Degrees that count as much as a noticeable change of expression.
_DEGREES = 15.0
_YAW_LIMIT, _PITCH_LIMIT = 75.0, 45.0


def select(checkup: Checkup, shot: range, wanted: int | None, *, drop_flaws: bool) -> Checkup:
    """Mark the frames that are not used, with the reason.

    Args:
        checkup: every frame of the clip.
        shot: the frames that may be used.
        wanted: the most frames to use; None for all that are good.
        drop_flaws: leave out fours of which more than half have a flaw, unless that leaves nothing.

    Returns:
        The same, with `left_out` set on frames that are not used; 4k + 1 are used.
    """
    checks = list(checkup.checks)
    flawed = np.array([bool(check.flaws) for check in checks])
    if not drop_flaws or flawed[list(shot)].all():
        flawed = np.zeros(len(checks), dtype=bool)
    features = _features(checkup)
    limit = len(shot) if wanted is None else min(wanted, len(shot))
    if limit < GROUP + 1:
        kept = [_single(features, [i for i in shot if not flawed[i]])]
    else:
        kept = _fours(features, shot, flawed, (limit - 1) // GROUP)
    used = set(kept)
    for i in shot:
        if i not in used:
            checks[i] = replace(checks[i], left_out=_reason(checks[i]))
    return replace(checkup, checks=tuple(checks))


def _reason(check: FrameCheck) -> str:
    return check.flaws[0] if check.flaws else NOT_NEEDED


def _fours(features: np.ndarray, shot: range, flawed: np.ndarray, count: int) -> list[int]:
    """The first frame and the fours, from the offset into the shot that uses most good and fewest flawed frames."""
    best: tuple[int, list[list[int]]] | None = None
    for offset in range(min(GROUP, len(shot) - GROUP)):
        starts = range(shot.start + offset + 1, shot.stop - GROUP + 1, GROUP)
        groups = [list(range(start, start + GROUP)) for start in starts]
        groups = [group for group in groups if flawed[group].sum() <= GROUP // 2]
        used = [groups[0][0] - 1, *(i for group in groups for i in group)] if groups else []
        score = int((~flawed[used]).sum() - flawed[used].sum()) if used else 0
        if groups and (best is None or score > best[0]):
            best = score, groups
    if best is None:
        return [_single(features, [i for i in shot if not flawed[i]])]
    groups = best[1]
    if count < len(groups):
        centres = [features[[i for i in group if not flawed[i]]].mean(axis=0) for group in groups]
        chosen = spread_out(np.array(centres), count)
        groups = [groups[i] for i in sorted(chosen)]
    return [groups[0][0] - 1, *(i for group in groups for i in group)]


def spread_out(points: np.ndarray, count: int) -> list[int]:
    """Rows of `points` [N, D] far from each other: first the most usual one, then always the farthest from all chosen.

    This is the greedy solution of the k-centre problem, at most twice as far from any row as the best (Gonzalez 1985).
    """
    chosen = [int(np.linalg.norm(points - np.median(points, axis=0), axis=1).argmin())]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count:
        # Rounded, so that equal distances stay equal on every machine and the earlier row wins.
        away = np.round(distance, 6)
        away[chosen] = -1
        chosen.append(int(away.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def _single(features: np.ndarray, candidates: list[int]) -> int:
    """The most usual frame: a photo of the clip."""
    rows = features[candidates]
    return candidates[int(np.linalg.norm(rows - np.median(rows, axis=0), axis=1).argmin())]


def _features(checkup: Checkup) -> np.ndarray:
    """[T, 2 + D]: pose and expression in steps of what an eye notices; what is not known counts as usual."""
    unknown = (np.nan, np.nan)
    turned = np.array([unknown if check.pose is None else check.pose for check in checkup.checks], dtype=float)
    turned = np.clip(turned, (-_YAW_LIMIT, -_PITCH_LIMIT), (_YAW_LIMIT, _PITCH_LIMIT)) / _DEGREES
    return np.concatenate([_filled(turned), _filled(checkup.expressions.features)], axis=1)


def _filled(rows: np.ndarray) -> np.ndarray:
    known = ~np.isnan(rows).any(axis=1)
    usual = np.median(rows[known], axis=0) if known.any() else np.zeros(rows.shape[1])
    return np.where(known[:, None], rows, usual)
