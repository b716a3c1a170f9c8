"""How hard, when and where in the model an identity acts; presets of it, and what it will do in plain words.

Appearance and dynamics tokens are read by one attention. Its values carry the weights of the two halves, so that with
R_a and R_d the parts of the residual that come from each,

    residual = appearance * R_a + dynamics * R_d,

which is the trained residual at 1 and 1. The attention's shares themselves stay as trained: less of one half never
makes more of the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

from torch import Tensor

from .conditioning import PreparedIdentity
from .errors import SlotIDError
from .masks import described, overlap

# A step on a bound must not depend on its last digit.
ROUNDING = 1e-6
# Long enough that only a range without any practical use has no step in it.
USUAL_STEPS = 20
LAST = -1
# Two people whose masks share more than this part of the smaller one are told of.
BLENDING = 0.1


@dataclass(frozen=True)
class Influence:
    """How hard, when and where an identity acts.

    Args:
        strength: factor of the residual; 0 changes nothing.
        start, end: part of the sampling, as fractions of it, 0 <= start < end <= 1. A step at start is in, one at end
            is out.
        first_block, last_block: range of the backbone's blocks, counted from 0, both included; -1 is the last of all.
        appearance, dynamics: weight of what the appearance tokens and the dynamics tokens contribute.

    Raises:
        SlotIDError: a setting out of its range.
    """

    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    first_block: int = 0
    last_block: int = LAST
    appearance: float = 1.0
    dynamics: float = 1.0

    def __post_init__(self) -> None:
        for name in ("strength", "appearance", "dynamics"):
            if not math.isfinite(getattr(self, name)):
                raise SlotIDError(
                    f"{name} = {getattr(self, name)}", "a finite number, usually 0 to 1.5", f"change {name}."
                )
        if not 0 <= self.start < self.end <= 1:
            raise SlotIDError(
                f"start = {self.start:g}, end = {self.end:g}",
                "0 <= start < end <= 1",
                "lower the start or raise the end; to switch the identity off, set strength to 0.",
            )
        if self.first_block < 0 or self.last_block < LAST or LAST != self.last_block < self.first_block:
            raise SlotIDError(
                f"first_block = {self.first_block}, last_block = {self.last_block}",
                "blocks counted from 0, the first not after the last; -1 is the last of all",
                "correct one of them.",
            )

    def blocks(self, conditioned: Sequence[int], depth: int) -> tuple[int, ...]:
        """Those of the conditioned blocks that lie in the range, in a backbone of so many blocks."""
        last = depth - 1 if self.last_block == LAST else self.last_block
        return tuple(block for block in conditioned if self.first_block <= block <= last)

    def steps(self, count: int) -> range:
        """Steps in the range, counted from 0, of `count` steps evenly spaced before the shift (scheduler simple)."""
        first, stop = (math.ceil(count * bound - ROUNDING) for bound in (self.start, self.end))
        return range(first, stop)

    def weighed(self, prepared: PreparedIdentity) -> PreparedIdentity:
        """Keys and values with the weights of the two halves on the values; the same at 1 and 1."""
        if self.appearance == self.dynamics == 1:
            return prepared
        some = next(iter(prepared.values.values()))
        factors = some.new_full((some.shape[-2], 1), self.appearance)
        factors[some.shape[-2] // 2 :] = self.dynamics
        return prepared._replace(values={block: values * factors for block, values in prepared.values.items()})

    def nothing(self) -> str:
        """Why nothing will change whatever the model is; "" where something may."""
        if self.strength == 0:
            return "strength is 0"
        return "appearance and dynamics are both 0" if self.appearance == self.dynamics == 0 else ""


PRESETS = {
    "strong likeness": Influence(strength=1.5),
    "loosen pose": Influence(strength=0.8, start=0.2),
    "look only": Influence(dynamics=0.0),
    "motion only": Influence(appearance=0.0),
}


class Person(NamedTuple):
    """One identity in a model.

    Attributes:
        name: where it comes from.
        influence: its settings.
        blocks: the blocks of the backbone that carry it.
        mask: where it acts, [n, H, W]; None is everywhere.
    """

    name: str
    influence: Influence
    blocks: tuple[int, ...]
    mask: Tensor | None = None


def describe(person: Person, depth: int) -> list[str]:
    """What an identity will do in a backbone of so many blocks, a line each."""
    influence = person.influence
    steps = influence.steps(USUAL_STEPS)
    part = f"{influence.start:.0%} to {influence.end:.0%} of the sampling"
    if len(steps) == USUAL_STEPS:
        part = "all"
    elif steps:
        part += f" ({_span([step + 1 for step in steps], 'step')} of {USUAL_STEPS})"
    return [
        f"strength {influence.strength:g}, appearance {influence.appearance:g}, dynamics {influence.dynamics:g}",
        f"blocks: {len(person.blocks)} of {depth} ({_span(person.blocks, 'block')}, counted from 0)",
        f"steps: {part}",
        f"mask: {'none, the whole picture' if person.mask is None else described(person.mask)}",
    ]


def advice(people: Sequence[Person]) -> list[str]:
    """What will probably not be as meant, a sentence each."""
    said = []
    for number, person in enumerate(people, 1):
        if not person.influence.steps(USUAL_STEPS):
            said.append(
                f"Person {number}: no step of a run of {USUAL_STEPS} lies between start and end; a short run changes "
                "nothing."
            )
    for (i, one), (j, other) in combinations(enumerate(people, 1), 2):
        shared = 1.0 if one.mask is None or other.mask is None else overlap(one.mask, other.mask)
        if one.name != other.name and shared > BLENDING:
            where = "everywhere" if one.mask is other.mask is None else f"in {shared:.0%} of the smaller mask"
            said.append(f"Persons {i} and {j} both act {where}: they blend there. Give each a mask of its own.")
    return said


def settings_of(influence: Influence) -> str:
    """The settings of a preset that are not the usual ones: "strength 0.8, start 0.2"."""
    usual = asdict(Influence())
    return ", ".join(f"{name} {value:g}" for name, value in asdict(influence).items() if value != usual[name])


def _span(numbers: Sequence[int], name: str) -> str:
    if len(numbers) == 1:
        return f"{name} {numbers[0]}"
    gaps = {b - a for a, b in pairwise(numbers)}
    every = f", every {gap}" if len(gaps) == 1 and (gap := gaps.pop()) > 1 else ""
    return f"{name}s {numbers[0]} to {numbers[-1]}{every}"
