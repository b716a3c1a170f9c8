"""The pack's own socket types, and the one place that knows which schema words an older host lacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

CATEGORY = "Slot-ID"

Clip = io.Custom("SLOTID_CLIP")  # slotid_core.video.Clip: frames with their times and their source's hash
Faces = io.Custom("SLOTID_FACES")  # slotid_core.faces.Faces: one person's crops, masks and coverage
Model = io.Custom("SLOTID_MODEL")  # nodes.host_model.HostModel: a Slot-ID model under the host's memory manager
Identity = io.Custom("SLOTID_IDENTITY")  # slotid_core.identity.Identity: tokens with their provenance
Routing = io.Custom("SLOTID_ROUTING")  # (slotid_core.faces.Faces, slots.RoutingTrace): who was read, and how
FaceLandmarks = io.Custom("FACE_LANDMARKS")  # ComfyUI core's MediaPipe nodes: {"frames": [[face, ...], ...], ...}

# Any other word that a host does not know is a mistake of ours, and must not be dropped silently.
_NEWER_WORDS = {"advanced", "has_intermediate_output", "search_aliases"}


def declare(make: Callable[..., Any], *args: Any, **words: Any) -> Any:
    """Call a schema class of the host without the words that it is too old to know (ComfyUI 0.3.64: `advanced`)."""
    known = inspect.signature(make).parameters
    return make(*args, **{word: value for word, value in words.items() if word in known or word not in _NEWER_WORDS})
