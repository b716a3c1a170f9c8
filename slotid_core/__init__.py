"""Slot-ID: identity tokens read from a short reference clip, conditioning a frozen video diffusion transformer.

::

    clip = load_video("me.mp4", frames=33, fps=16)
    faces = prepare_faces(clip, detector="dlib")
    model = SlotID.load("slotid-wan2.1-1.3b.safetensors")
    identity = model.encode(faces, encode_video(vae))
    with model.condition(transformer, identity, strength=0.9):
        video = pipe(prompt)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Clip": "video",
    "Faces": "faces",
    "Identity": "identity",
    "SlotID": "model",
    "SlotIDError": "errors",
    "SlotIDWarning": "errors",
    "encode_video": "pipelines.wan",
    "load_video": "video",
    "prepare_faces": "faces",
}

__all__ = ["Clip", "Faces", "Identity", "SlotID", "SlotIDError", "SlotIDWarning", "encode_video", "load_video"]
__all__ += ["prepare_faces"]


def __getattr__(name: str) -> Any:
    # Lazily, so that importing the package stays quick and asks for nothing that is not used.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
