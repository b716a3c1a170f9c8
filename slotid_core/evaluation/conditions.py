"""The conditions of a study: all runs of one variant, pooled over training seeds, beside what is true of each video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..training.variants import VARIANTS
from .bootstrap import Bootstrap, Estimate, Group
from .metrics import Array, Metric
from .results import NONE, PACKAGED, PHOTOS, ROUND_TRIP, TRUTH, Run

WRONG, FOLLOWED = "wrong", "followed"
FULL = "full"
# The packaged model with one frame of the clip.
PACKAGED_PHOTOS = tuple(f"{PACKAGED}, {photo}" for photo in PHOTOS)
# The order of every table: what can be reached, the model that ships and its floors, the comparison at equal training.
_CLIPS = [name for name, variant in VARIANTS.items() if variant.reference == "clip"][::-1]
_PHOTOS = [name for name, variant in VARIANTS.items() if variant.reference not in ("clip", "parameters")][::-1]
ORDER = (TRUTH, ROUND_TRIP, PACKAGED, *PACKAGED_PHOTOS, WRONG, FOLLOWED, NONE, "oracle", *_CLIPS, *_PHOTOS)
LABELS = {
    TRUTH: "real renders",
    ROUND_TRIP: "real renders through the VAE",
    PACKAGED: "the packaged model",
    **{f"{PACKAGED}, {photo}": f"it, {VARIANTS[photo].says}" for photo in PHOTOS},
    NONE: "no identity",
    WRONG: "wrong reference",
    FOLLOWED: "the same, against the reference's person",
    **{name: variant.says for name, variant in VARIANTS.items()},
}


@dataclass(frozen=True)
class Condition:
    """Videos of one condition: S training seeds times the study's n videos.

    Attributes:
        made: what the judges read, by name, [S n] or [S n, k].
        true: the study's rows, by name, [S n].
        group: the person and the training seed of each row.
        runs: the runs in it.
    """

    key: str
    made: dict[str, Array]
    true: dict[str, Array]
    group: Group
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        return LABELS[self.key]

    def estimate(self, bootstrap: Bootstrap, metric: Metric, *, centred: bool = False) -> Estimate:
        return bootstrap.estimate(metric, self.group, self.key, centred=centred)


def conditions_of(rows: dict[str, Array], runs: list[Run]) -> dict[str, Condition]:
    """Conditions by key, in the order of tables; those without runs are absent."""
    found = {}
    for key in ORDER:
        own = [run for run in runs if _key(run) == key]
        if not own:
            continue
        count = len(rows["person"])
        found[key] = Condition(
            key,
            {name: np.concatenate([run.columns[name] for run in own]) for name in own[0].columns},
            {name: np.tile(values, len(own)) for name, values in rows.items()},
            Group(np.tile(rows["person"], len(own)), np.repeat([run.seed or 0 for run in own], count)),
            tuple(own),
        )
    if WRONG in found:
        found[FOLLOWED] = _followed(found[WRONG])
    return {key: found[key] for key in ORDER if key in found}


def _followed(wrong: Condition) -> Condition:
    """The videos with the wrong reference, held against the person whom the reference shows: the next one."""
    videos, count = len(wrong.true["person"]), len(np.unique(wrong.true["person"]))
    each = videos // (count * len(wrong.runs))
    scene = ("person", "number", "pose", "expression", "background", "yaw")

    def following(values: Array) -> Array:
        return np.roll(values.reshape(-1, count, each), -1, axis=1).reshape(videos)

    # The next person is the first of the others whose galleries a video was compared with.
    own, others = wrong.made["similarity"], wrong.made["impostors"]
    made = {**wrong.made, "similarity": others[:, 0], "impostors": np.column_stack([own, others[:, 1:]])}
    true = {name: values if name in scene else following(values) for name, values in wrong.true.items()}
    return Condition(FOLLOWED, made, true, wrong.group, wrong.runs)


def _key(run: Run) -> str:
    if not run.wrong:
        return run.variant
    return WRONG if run.variant in (FULL, PACKAGED) else f"{run.variant}, {WRONG}"
