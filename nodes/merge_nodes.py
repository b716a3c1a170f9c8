"""Nodes that make one identity out of several."""

from __future__ import annotations

from comfy_api.latest import io

from ..slotid_core.identity_card import identity_card
from ..slotid_core.merging import blend_identities, merge_identities
from . import sockets
from .host import as_image
from .sockets import declare
from .video_nodes import preview

_MORE = "Another clip of the same person."


class MergeIdentities(io.ComfyNode):
    """Slot-ID Merge Identities."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDMergeIdentities",
            display_name="Slot-ID Merge Identities",
            category=sockets.CATEGORY,
            description="Makes one identity of several clips of one person, so that it knows what any of them shows. "
            "Slots are matched first; each then counts in every clip as much as that clip held of what it is for.",
            search_aliases=["combine identities", "average faces", "several clips", "join identities"],
            has_intermediate_output=True,
            inputs=[
                declare(sockets.Identity.Input, "identity_1", tooltip="A clip of the person."),
                declare(sockets.Identity.Input, "identity_2", tooltip=_MORE),
                declare(sockets.Identity.Input, "identity_3", optional=True, tooltip=_MORE),
                declare(sockets.Identity.Input, "identity_4", optional=True, tooltip=_MORE),
            ],
            outputs=[
                sockets.Identity.Output("identity", display_name="identity", tooltip="For Apply and Save Identity."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How much each clip counts, and how many slots say different things.",
                ),
            ],
        )

    @classmethod
    def execute(cls, identity_1, identity_2, identity_3=None, identity_4=None) -> io.NodeOutput:
        given = [one for one in (identity_1, identity_2, identity_3, identity_4) if one is not None]
        identity = merge_identities(given)
        report = identity.report()
        return io.NodeOutput(identity, report, ui=preview(as_image(identity_card(identity)), report, cls))


class BlendIdentities(io.ComfyNode):
    """Slot-ID Blend Identities."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDBlendIdentities",
            display_name="Slot-ID Blend Identities",
            category=sockets.CATEGORY,
            description="Makes somebody between two people: matching slots are turned from one person to the other.",
            search_aliases=["mix faces", "morph", "face blend", "interpolate identities"],
            has_intermediate_output=True,
            inputs=[
                declare(sockets.Identity.Input, "identity_1", tooltip="The first person."),
                declare(sockets.Identity.Input, "identity_2", tooltip="The second person."),
                declare(
                    io.Float.Input,
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the second person: 0 is the first alone, 1 the second alone.",
                ),
            ],
            outputs=[
                sockets.Identity.Output("identity", display_name="identity", tooltip="For Apply and Save Identity."),
                io.String.Output("report", display_name="report", tooltip="The weight of each person."),
            ],
        )

    @classmethod
    def execute(cls, identity_1, identity_2, share) -> io.NodeOutput:
        identity = blend_identities(identity_1, identity_2, share=share)
        report = identity.report()
        return io.NodeOutput(identity, report, ui=preview(as_image(identity_card(identity)), report, cls))
