"""Slot-ID on diffusers, without ComfyUI."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import INSTALL, SlotIDError


def require_diffusers() -> None:
    """Say how to install diffusers where it is missing; nothing else in the core needs it.

    Raises:
        SlotIDError: if diffusers or accelerate cannot be imported.
    """
    missing = [name for name in ("diffusers", "accelerate") if find_spec(name) is None]
    if missing:
        raise SlotIDError(
            f"{' and '.join(missing)} is not installed",
            "diffusers 0.35 or newer with accelerate, for work without ComfyUI",
            f"pip install {INSTALL['headless']}",
        )
