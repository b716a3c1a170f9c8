"""The node of the demo world, which has its own words and no text encoder."""

from __future__ import annotations

from comfy_api.latest import io

from ..slotid_core.demo.prompts import VOCABULARY, embed_empty, embed_prompt
from . import sockets
from .sockets import declare


class DemoPrompt(io.ComfyNode):
    """Slot-ID Demo Prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDDemoPrompt",
            display_name="Slot-ID Demo Prompt",
            category=f"{sockets.CATEGORY}/demo",
            description="Describes a scene in the few words that the packaged demo model knows. For the demo model "
            "only: a real Wan model takes its prompt from CLIP Text Encode.",
            search_aliases=["demo", "prompt", "demo world"],
            inputs=[
                declare(
                    io.Combo.Input,
                    "pose",
                    options=list(VOCABULARY["pose"]),
                    default="front",
                    tooltip="Which way the head is turned, as the viewer sees it.",
                ),
                declare(
                    io.Combo.Input,
                    "expression",
                    options=list(VOCABULARY["expression"]),
                    default="smile",
                    tooltip="What the face does in the course of the video.",
                ),
                declare(
                    io.Combo.Input,
                    "background",
                    options=list(VOCABULARY["background"]),
                    default="blue",
                    tooltip="Colour behind the head.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive", display_name="positive", tooltip="The prompt, for the sampler's positive input."
                ),
                io.Conditioning.Output(
                    "negative", display_name="negative", tooltip="The empty prompt, for the sampler's negative input."
                ),
            ],
        )

    @classmethod
    def execute(cls, pose, expression, background) -> io.NodeOutput:
        return io.NodeOutput(_conditioning(embed_prompt(pose, expression, background)), _conditioning(embed_empty()))


def _conditioning(tokens) -> list:
    return [[tokens.unsqueeze(0), {}]]
