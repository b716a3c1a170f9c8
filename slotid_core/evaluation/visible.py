"""Which side of a head a pose shows, by the demo world's geometry."""

from __future__ import annotations

from ..demo.prompts import POSES
from .targets import SIDES

# Positive yaw turns the face to the viewer's right, and the person's left side away. In degrees: from HIDDEN_FROM on
# nothing is left of that side's mark (a mole on the cheek, a ring under the ear); up to CLEAR_UNTIL at least half as
# much of it can be seen as from the front.
HIDDEN_FROM = 50.0
CLEAR_UNTIL = 20.0


def hidden_side(yaw: float) -> str | None:
    """The side whose mark cannot be seen at this yaw in degrees; None where something of both can."""
    if abs(yaw) < HIDDEN_FROM:
        return None
    return SIDES[0] if yaw > 0 else SIDES[1]


def poses_showing(side: str) -> tuple[str, ...]:
    """The poses that show the mark of a side clearly."""
    sign = 1.0 if side == SIDES[0] else -1.0
    return tuple(name for name, yaw in POSES.items() if sign * yaw <= CLEAR_UNTIL)
