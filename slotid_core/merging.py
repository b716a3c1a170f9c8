"""One identity out of several: of clips of one person, or between two people.

Slots of two identities are matched before anything is combined, by an assignment (Kuhn-Munkres, scipy's
`linear_sum_assignment`) that maximises over all slots i of the one and j of the other

    cos(a_i - mean a, b_j - mean b)  +  sum over places of sqrt(p_i q_j)  +  (SAME_NUMBER if i = j)

where a and b are the appearance tokens and p, q where in the crop each slot looked (the routing plan's rows, mean over
the clip, each summing to 1); identities without routing are matched without it. A slot's initial state is learned, so
that slot i of two clips is for the same thing, as long as nothing was merged; tokens and places alone mistake just
those slots of which one clip has seen what they are for and the other has not.

**Clips of one person.** Each matched slot's token is the mean of the clips' tokens, weighed by how much of what the
slot asks for each clip held (its evidence d_m, `slots.SlotReader`): a clip that shows the left cheek decides what is
said of it, whatever a clip of the right one guesses.

    token = sum e_m t_m / sum e_m,   e_m = w_m d_m

with w_m a weight of the whole clip, 1 where none is given. This is how the encoder is trained to be merged
(`training/parts.py`); what comes of it: `python -m slotid_core.evaluation.merged`. Appearance and dynamics of a
slot are weighed alike, but a photo's dynamics, which are none, count nothing beside a clip's.

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

# Cosine, around the mean token, under which two slots of one person are reported to say different things.
AGREEMENT = 0.5
# Enough for slots of partial clips of one person to find each other (all of 384 on the demo weights; 87 % without it).
SAME_NUMBER = 0.5


def merge_identities(identities: Sequence[Identity], *, weights: Sequence[float] | None = None) -> Identity:
    """One identity of several clips of one person, in no order that matters but ties.

    Args:
        identities: two or more, all made by one model file.
        weights: of each clip, beside what its slots found; None counts all the same.

    Raises:
        SlotIDError: fewer than two, identities of different models, or weights that are no weights.
    """
    identities = list(identities)
    _check(identities)
    shares = torch.tensor(_shares([1.0] * len(identities) if weights is None else list(weights), len(identities)))
    aligned = [_aligned(identities[0], one) for one in identities]
    # Where one does not tell (a blend), nobody's can be held against it: all slots of all clips count the same.
    known = all(one.evidence is not None for one in aligned)
    evidence = torch.stack([_evidence(one) if known else torch.ones(_slots(one)).double() for one in aligned])
    # [members, S]: of each slot, how much each clip counts.
    counts = shares[:, None] * evidence
    counts = counts / counts.sum(0)
    moving = torch.tensor([[float(len(one.frames_used) != 1)] for one in aligned])
    moves = torch.where((counts * moving).sum(0) > 0, counts * moving, counts)
    tokens = torch.stack([one.tokens.double().unflatten(0, (2, -1)) for one in aligned])
    mean = torch.einsum("mhs,mhsd->hsd", torch.stack([counts, moves / moves.sum(0)], 1), tokens)
    disagree = _disagreeing(aligned, counts)
    words = f"{counts.shape[1]} slots matched, {disagree} where the clips say different things"
    merged = _joined(aligned, counts.mean(1).tolist(), mean.flatten(0, 1).float(), "merged", words)
    maps = [one.routing for one in aligned]
    if all(rows is not None and rows.shape == maps[0].shape for rows in maps):
        merged = replace(merged, routing=torch.einsum("ms,mshw->shw", counts.float(), torch.stack(maps)))
    found = (shares[:, None] * len(shares) * evidence).sum(0).float()
    return replace(merged, evidence=found if known else None)


def blend_identities(first: Identity, second: Identity, *, share: float = 0.5) -> Identity:
    """Somebody between two people.

    Args:
        first, second: made by one model file.
        share: of the second, 0 to 1; at 0 and 1 the tokens are exactly those of one of them.

    Raises:
        SlotIDError: identities of different models or numbers of slots, or a share outside 0 to 1.
    """
    _check([first, second])
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1:
        raise SlotIDError(f"the share is {share!r}", "a number from 0 to 1", "correct the share.")
    theirs = _aligned(first, second)
    if share in (0, 1):
        tokens = second.tokens.clone() if share else first.tokens.clone()
    else:
        pairs = zip(first.tokens, theirs.tokens, strict=True)
        tokens = torch.stack([_between(a, b, float(share)) for a, b in pairs])
    return _joined([first, second], [1 - share, share], tokens, "blend", f"{_slots(first)} slots matched")


def match_slots(first: Identity, second: Identity) -> list[int]:
    """The second's slot for each slot of the first."""
    optimize = load_package("scipy.optimize", "pack")

    gain = _centred(first) @ _centred(second).T
    if first.routing is not None and second.routing is not None and first.routing.shape[1:] == second.routing.shape[1:]:
        gain = gain + first.routing.flatten(1).sqrt().double() @ second.routing.flatten(1).sqrt().double().T
    gain = gain + SAME_NUMBER * torch.eye(*gain.shape, dtype=gain.dtype)
    return optimize.linear_sum_assignment(np.asarray(gain), maximize=True)[1].tolist()


def _aligned(first: Identity, other: Identity) -> Identity:
    """The other with its slots in the order of the first's."""
    rows = torch.tensor(match_slots(first, other))
    parts = {name: getattr(other, name) for name in ("routing", "evidence")}
    parts = {name: None if part is None else part[rows] for name, part in parts.items()}
    return replace(other, tokens=torch.cat([other.tokens[rows], other.tokens[rows + _slots(other)]]), **parts)


def _check(identities: Sequence[Identity]) -> None:
    if len(identities) < 2:
        raise SlotIDError(f"{len(identities)} identities to combine", "2 or more", "connect or name another identity.")
    first = identities[0]
    for other in identities[1:]:
        if other.model_hash != first.model_hash or other.tokens.shape != first.tokens.shape:
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


def _evidence(identity: Identity) -> Tensor:
    """[S] float64, never nothing, so that some clip always counts."""
    return identity.evidence.double().clamp(min=1e-12)


def _disagreeing(aligned: Sequence[Identity], counts: Tensor) -> int:
    """Slots of which some clip that counts says something else than the one that counts most."""
    rows = torch.stack([_centred(one) for one in aligned])
    leaders = rows[counts.argmax(0), torch.arange(counts.shape[1])]
    apart = (torch.einsum("msd,sd->ms", rows, leaders) < AGREEMENT) & (counts > 0)
    return int(apart.any(0).sum())


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
        routing=None,
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
