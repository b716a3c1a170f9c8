"""Nodes that show, and change nothing."""

from __future__ import annotations

from comfy_api.latest import io

from ..slotid_core.routing_sheet import routing_overlay, routing_report, slot_pictures, usage_plot
from . import sockets
from .host import as_image
from .sockets import declare
from .video_nodes import preview


class RoutingPreview(io.ComfyNode):
    """Slot-ID Routing Preview."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDRoutingPreview",
            display_name="Slot-ID Routing Preview",
            category=sockets.CATEGORY,
            description="Shows where each identity slot looked in the clip, over time, how much each one took and how "
            "much was left aside as background. All of it is read off the plan that made the identity.",
            search_aliases=["attention map", "slots", "sinkhorn", "explain identity", "heatmap"],
            is_output_node=True,
            inputs=[
                declare(sockets.Routing.Input, "routing_plan", tooltip="The routing plan of Encode Identity."),
            ],
            outputs=[
                io.Image.Output(
                    "overlay",
                    display_name="overlay",
                    tooltip="A picture for each latent frame: the crop, each place in the colour of the slot that took "
                    "most from it, dark where it went to the dustbin.",
                ),
                io.Image.Output(
                    "slots",
                    display_name="slots",
                    tooltip="A picture for each latent frame: one crop for each slot, bright where it looked.",
                ),
                io.Image.Output(
                    "plot",
                    display_name="plot",
                    tooltip="Each slot's share over time; below, the dustbin's share and the marginal error.",
                ),
                io.String.Output("report", display_name="report", tooltip="The same in words and figures."),
            ],
        )

    @classmethod
    def execute(cls, routing_plan) -> io.NodeOutput:
        faces, trace = routing_plan
        plot, report = as_image(usage_plot(trace)), routing_report(trace)
        overlay, slots = routing_overlay(faces, trace), slot_pictures(faces, trace)
        return io.NodeOutput(overlay, slots, plot, report, ui=preview(plot, report, cls))
