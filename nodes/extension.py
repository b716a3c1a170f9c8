"""The nodes as the host asks for them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply_node import Apply
from .demo_nodes import DemoPrompt
from .folders import register_folders
from .guider_node import Guider
from .identity_nodes import EncodeIdentity, LoadIdentity, LoadModel, SaveIdentity
from .likeness_node import MeasureLikeness
from .merge_nodes import BlendIdentities, MergeIdentities
from .preview_nodes import RoutingPreview
from .video_nodes import LoadReferenceVideo, PrepareFace

NODES: list[type[io.ComfyNode]] = [
    LoadReferenceVideo,
    PrepareFace,
    LoadModel,
    EncodeIdentity,
    SaveIdentity,
    LoadIdentity,
    Apply,
    Guider,
    MergeIdentities,
    BlendIdentities,
    RoutingPreview,
    MeasureLikeness,
    DemoPrompt,
]


class SlotIDExtension(ComfyExtension):
    """What the host asks for when it loads the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Here and not in on_load, which 0.3.64 does not call.
        register_folders()
        return NODES
