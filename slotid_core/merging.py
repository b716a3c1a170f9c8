"""One identity out of several: of clips of one person, or between two people.

Slots of two identities are matched before anything is combined, by an assignment (Kuhn-Munkres, scipy's
`linear_sum_assignment`) that maximises over all slots i of the one and j of the other

    cos(a_i - mean a, b_j - mean b)  +  sum over places of sqrt(p_i q_j)  +  (SAME_NUMBER if i = j)

where a and b are the appearance tokens and p, q where in the crop each slot looked (the routing plan's rows, mean over
the clip, each summing to 1); identities without routing are matched without it. A slot's initial state is learned, so
that slot i of two clips is for the same thing, as long as nothing was merged; tokens and places alone mistake just
those slots of which one clip has seen what they are for and the other has not.

**Clips of one person.** A mean of vectors that point different ways is short and means neither. So for each matched
slot only members that agree are averaged. Of those that disagree the one that found most is kept: one clip has seen
what the slot is for, and the other guesses. How much a slot found is how far its clip moved it from what it says of a
clip that shows nothing (`SlotID.evidence`). What comes of it: `python -m slotid_core.evaluation.merged`.

    members m of a slot agree with its leader (the one of most evidence d_m) if that cosine is at least AGREEMENT
    token = (sum e_m t_m / |t_m|), brought to the length  sum e_m |t_m| / sum e_m,   e_m = w_m d_m

with w_m the weight of the clip, which has no say in who leads: a short clip may be the only one that shows the other
cheek. Where the evidence is not known (files of version 0.1.0) what disagrees is kept beside it as a slot of its own;
the conditioning attends over the tokens as over a set, so that an identity may have more of them. Appearance and
dynamics of a slot stay together; a photo's dynamics, which are none, count nothing beside a clip's.

**Two people.** Matched tokens are turned from one to the other by spherical interpolation, and their lengths linearly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import SlotIDError, load_package
from .identity import MAX_THUMBNAILS, Identity

# Cosine, around the mean token, from which two slots of one person are taken to say the same. On the demo weights it
# hardly matters: marks are 65, 68 and 67 % right with 0.3, 0.5 and nothing ever averaged (24 validation people).
AGREEMENT = 0.5
# Enough for slots of partial clips of one person to find each other (all of 384 on the demo weights; 87 % without it).
SAME_NUMBER = 0.5
# Degrees; views of a head within such a cell count once.
_VIEW = 15.0


def merge_identities(identities: Sequence[Identity], *, weights: Sequence[float] | None = None) -> Identity:
    """One identity of several clips of one person, in no order that matters but ties.

    Args:
        identities: two or more, all made by one model file.
        weights: of each clip; None weighs each by its coverage (`coverage_weight`).

    Raises:
        SlotIDError: fewer than two, identities of different models, or weights that are no weights.
    """
    identities = list(identities)
    _check(identities, at_least=2)
    given = [coverage_weight(one) for one in identities] if weights is None else list(weights)
    shares = _shares(given, len(identities))
    order = sorted((m for m in range(len(identities)) if shares[m]), key=lambda m: -shares[m])
    # groups[s] holds (member, slot) of everything that is matched to slot s of the first in order.
    groups = [[(order[0], slot)] for slot in range(_slots(identities[order[0]]))]
    for m in order[1:]:
        pairs = match_slots(identities[order[0]], identities[m])
        for mine, theirs in pairs:
            groups[mine].append((m, theirs))
        matched = {theirs for _, theirs in pairs}
        groups += [[(m, slot)] for slot in range(_slots(identities[m])) if slot not in matched]
    appearance, dynamics, maps, evidence, disagree = [], [], [], [], 0
    known = all(one.evidence is not None for one in identities)
    for group in groups:
        parts = _agreeing(identities, group)
        disagree += len(parts) - 1
        for part in parts[:1] if known else parts:
            tokens = [_combined(identities, shares, part, half) for half in (0, 1)]
            appearance.append(tokens[0])
            dynamics.append(tokens[1])
            maps.append(_map(identities, shares, part))
            evidence.append(max(_found(identities, *entry) for entry in part))
    done = "left out for one that found more" if known else "kept beside them"
    words = f"{len(groups)} slots matched, {disagree} {done} where the clips disagree"
    routing = torch.stack(maps) if all(row is not None for row in maps) else None
    merged = _joined(identities, shares, torch.stack(appearance + dynamics), routing, "merged", words)
    return replace(merged, evidence=torch.tensor(evidence) if known else None)


def blend_identities(first: Identity, second: Identity, *, share: float = 0.5) -> Identity:
    """Somebody between two people.

    Args:
        first, second: made by one model file.
        share: of the second, 0 to 1; at 0 and 1 the tokens are exactly those of one of them.

    Raises:
        SlotIDError: identities of different models or numbers of slots, or a share outside 0 to 1.
    """
    _check([first, second], at_least=2)
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1:
        raise SlotIDError(f"the share is {share!r}", "a number from 0 to 1", "correct the share.")
    slots = _slots(first)
    if slots != _slots(second):
        raise SlotIDError(
            f"{first.source!r} has {slots} slots and {second.source!r} {_slots(second)}",
            "identities of one number of slots",
            "blend identities that were not merged, or merged ones of the same number of slots.",
        )
    partner = dict(match_slots(first, second))
    rows = torch.tensor([partner[s] for s in range(slots)])
    theirs = torch.cat([second.tokens[rows], second.tokens[slots + rows]])
    if share in (0, 1):
        tokens = second.tokens.clone() if share else first.tokens.clone()
    else:
        tokens = torch.stack([_between(a, b, float(share)) for a, b in zip(first.tokens, theirs, strict=True)])
    return _joined([first, second], [1 - share, share], tokens, None, "blend", f"{slots} slots matched")


def match_slots(first: Identity, second: Identity) -> list[tuple[int, int]]:
    """Pairs (slot of the first, slot of the second), ordered by the first; as many as the one with fewer slots has."""
    optimize = load_package("scipy.optimize", "pack")

    gain = _centred(first) @ _centred(second).T
    if first.routing is not None and second.routing is not None and first.routing.shape[1:] == second.routing.shape[1:]:
        gain = gain + first.routing.flatten(1).sqrt().double() @ second.routing.flatten(1).sqrt().double().T
    gain = gain + SAME_NUMBER * torch.eye(*gain.shape, dtype=gain.dtype)
    rows, columns = optimize.linear_sum_assignment(np.asarray(gain), maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


def coverage_weight(identity: Identity) -> float:
    """What a clip shows: frames with a face, times the different views (cells of 15 degrees), one where not known."""
    coverage = identity.coverage
    poses = [pose for pose in coverage.get("poses", []) if pose]
    views = {(round(yaw / _VIEW), round(pitch / _VIEW)) for yaw, pitch in poses}
    return float(coverage.get("detected", len(identity.frames_used)) or 1) * max(1, len(views))


def _check(identities: Sequence[Identity], *, at_least: int) -> None:
    if len(identities) < at_least:
        raise SlotIDError(
            f"{len(identities)} identities to combine", f"{at_least} or more", "connect or name another identity."
        )
    first = identities[0]
    for other in identities[1:]:
        if other.model_hash != first.model_hash or other.tokens.shape[1:] != first.tokens.shape[1:]:
            raise SlotIDError(
                f"one identity was made by {first.model_name!r} ({first.model_hash[:12]}), another by "
                f"{other.model_name!r} ({other.model_hash[:12]})",
                "identities made by one Slot-ID model",
                "read the identity from its clip again with the same model.",
            )


def _shares(weights: list[float], count: int) -> list[float]:
    good = len(weights) == count and all(
        isinstance(w, int | float) and not isinstance(w, bool) and math.isfinite(w) and w >= 0 for w in weights
    )
    if not good or sum(weights) <= 0:
        raise SlotIDError(
            f"the weights are {weights!r:.100}", f"{count} numbers from 0 on, not all 0", "correct the weights."
        )
    return [weight / sum(weights) for weight in weights]


def _slots(identity: Identity) -> int:
    return len(identity.tokens) // 2


def _centred(identity: Identity) -> Tensor:
    """Appearance tokens around their mean, of length 1: [S, D_id] float64. The mean is common to all people."""
    appearance = identity.tokens[: _slots(identity)].double()
    return F.normalize(appearance - appearance.mean(0), dim=-1)


def _found(identities: Sequence[Identity], member: int, slot: int) -> float:
    """How much the slot found in its clip; the same for all where it is not known."""
    evidence = identities[member].evidence
    return 1.0 if evidence is None else float(evidence[slot])


def _agreeing(identities: Sequence[Identity], group: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The group in parts whose members agree with their leader, the one that found most first."""
    rest = sorted(group, key=lambda entry: -_found(identities, *entry))
    parts = []
    while rest:
        leader = _centred(identities[rest[0][0]])[rest[0][1]]
        agree = [e for e in rest if e == rest[0] or float(_centred(identities[e[0]])[e[1]] @ leader) >= AGREEMENT]
        parts.append(agree)
        rest = [entry for entry in rest if entry not in agree]
    return parts


def _weights(identities: Sequence[Identity], shares: Sequence[float], part: list[tuple[int, int]]) -> Tensor:
    """[members] float64, summing to 1: the clip's weight times what the slot found in it."""
    weights = torch.tensor([shares[m] * _found(identities, m, slot) for m, slot in part], dtype=torch.float64)
    return weights / weights.sum() if float(weights.sum()) else torch.full_like(weights, 1 / len(part))


def _combined(
    identities: Sequence[Identity], shares: Sequence[float], part: list[tuple[int, int]], half: int
) -> Tensor:
    """The token of a slot: half 0 of appearance, 1 of dynamics."""
    if half and any(len(identities[m].frames_used) != 1 for m, _ in part):
        part = [(m, slot) for m, slot in part if len(identities[m].frames_used) != 1]
    tokens = torch.stack([identities[m].tokens[half * _slots(identities[m]) + slot] for m, slot in part]).double()
    if len(part) == 1:
        return tokens[0].float()
    weights = _weights(identities, shares, part).unsqueeze(-1)
    direction = F.normalize((weights * F.normalize(tokens, dim=-1)).sum(0), dim=0)
    return (direction * (weights * tokens.norm(dim=-1, keepdim=True)).sum()).float()


def _map(identities: Sequence[Identity], shares: Sequence[float], part: list[tuple[int, int]]) -> Tensor | None:
    rows = [identities[m].routing for m, _ in part]
    if any(row is None or row.shape[1:] != rows[0].shape[1:] for row in rows):
        return None
    stacked = torch.stack([row[slot] for row, (_, slot) in zip(rows, part, strict=True)])
    return (_weights(identities, shares, part).float().view(-1, 1, 1) * stacked).sum(0)


def _between(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of directions, linear of lengths."""
    a, b = a.double(), b.double()
    length = (1 - share) * a.norm() + share * b.norm()
    one, two = F.normalize(a, dim=0), F.normalize(b, dim=0)
    angle = torch.arccos((one @ two).clamp(-1, 1))
    # Nearly the same, or opposite: the sphere has no one way between them, and a straight line is as good.
    if float(angle.sin()) < 1e-4:
        return ((1 - share) * a + share * b).float()
    turned = (((1 - share) * angle).sin() * one + (share * angle).sin() * two) / angle.sin()
    return (length * turned).float()


def _joined(
    identities: Sequence[Identity],
    shares: Sequence[float],
    tokens: Tensor,
    routing: Tensor | None,
    how: str,
    words: str,
) -> Identity:
    """The provenance of what was combined, and its tokens."""
    first = identities[0]
    parts = [
        {
            "source": one.source,
            "source_hash": one.source_hash,
            "weight": round(share, 4),
            "frames_used": list(one.frames_used),
            "consent": one.consent,
        }
        for one, share in zip(identities, shares, strict=True)
    ]
    digest = hashlib.sha256("\n".join(one.source_hash for one in identities).encode()).hexdigest()
    consents = [f"{one.source}: {one.consent or 'no note'}" for one in identities]
    # In turn, so that each of them is seen.
    turns = [(one, i) for i in range(MAX_THUMBNAILS) for one in identities if i < len(one.thumbnails)]
    thumbnails = [one.thumbnails[i : i + 1] for one, i in turns]
    return replace(
        first,
        tokens=tokens,
        thumbnails=torch.cat(thumbnails[:MAX_THUMBNAILS]),
        coverage=_coverage(identities) | {"how": how, "parts": parts, "matching": words},
        source=" + ".join(one.source for one in identities),
        source_hash=digest,
        frames_used=tuple(time for one in identities for time in one.frames_used),
        consent="; ".join(consents) if any(one.consent for one in identities) else "",
        routing=routing,
        evidence=None,
    )


def _coverage(identities: Sequence[Identity]) -> dict[str, Any]:
    """What the clips show together."""
    each = [one.coverage for one in identities]
    sources = {one.get("expression_source", "") for one in each}
    names = sorted({name for one in each for name in one.get("expressions", {})}) if len(sources) == 1 else []
    return {
        "frames": sum(one.get("frames", 0) for one in each),
        "detected": sum(one.get("detected", 0) for one in each),
        "detector": ", ".join(sorted({str(one.get("detector", "?")) for one in each})),
        "poses": [pose for one in each for pose in one.get("poses", [])],
        "expression_source": sources.pop() if len(sources) == 1 else "",
        "expressions": {name: max(one.get("expressions", {}).get(name, 0.0) for one in each) for name in names},
    }
