"""The node that puts an identity into a diffusion model."""

from __future__ import annotations

import logging

from comfy_api.latest import io, ui

from ..slotid_core.influence import PRESETS, Influence, advice, describe, settings_of
from ..slotid_core.masks import checked_mask
from . import sockets
from .host import show_text
from .sockets import declare
from .wan_patch import apply_identity, depth_of, patches_in

CUSTOM = "custom"


class Apply(io.ComfyNode):
    """Slot-ID Apply."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDApply",
            display_name="Slot-ID Apply",
            category=sockets.CATEGORY,
            description="Makes a Wan model generate the person of an identity. The model itself stays untouched: "
            "bypass or remove this node, or set strength to 0, and the results are exactly the model's own. For "
            "several people put several of these nodes in a row, each with a mask.",
            search_aliases=[
                "identity",
                "face",
                "likeness",
                "character",
                "consistent person",
                "faceid",
                "two people",
                "regional",
            ],
            has_intermediate_output=True,
            inputs=[
                declare(
                    io.Model.Input,
                    "model",
                    tooltip="The Wan 2.1 or 2.2 diffusion model that the Slot-ID model was made for. LoRAs and other "
                    "patches may come before or after.",
                ),
                declare(
                    sockets.Model.Input,
                    "slotid_model",
                    tooltip="The same Slot-ID model that the identity was read with.",
                ),
                declare(
                    sockets.Identity.Input, "identity", tooltip="The person, from Encode Identity or Load Identity."
                ),
                declare(
                    io.Float.Input,
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="How strongly the identity acts. Lower it if the pose or the prompt suffers; 0 changes "
                    "nothing at all, whatever the preset.",
                ),
                declare(
                    io.Float.Input,
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Part of the sampling after which the identity begins to act. A later start leaves the "
                    "composition and pose freer.",
                ),
                declare(
                    io.Float.Input,
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Part of the sampling after which the identity stops acting. An earlier end leaves fine "
                    "texture to the model.",
                ),
                declare(
                    io.Mask.Input,
                    "mask",
                    optional=True,
                    tooltip="Where this person is in the video: white is the person. One frame holds for the whole "
                    "video; several move with it, and are stretched over its length if their number is another. "
                    "Without a mask the identity acts everywhere.",
                ),
                declare(
                    io.Combo.Input,
                    "preset",
                    options=[CUSTOM, *PRESETS],
                    default=CUSTOM,
                    optional=True,
                    tooltip="custom: the numbers on this node. The others set all of them but the mask. strong "
                    "likeness: strength 1.5. loosen pose: strength 0.8, start 0.2. look only: dynamics 0. motion only: "
                    "appearance 0. What they do not name is as usual: strength 1, the whole sampling, all blocks, "
                    "appearance 1, dynamics 1.",
                ),
                declare(
                    io.Float.Input,
                    "appearance",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="How much the appearance tokens add: what the person looks like. 1 is as trained, 0 leaves "
                    "them out.",
                ),
                declare(
                    io.Float.Input,
                    "dynamics",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="How much the dynamics tokens add: how the person moves. 1 is as trained, 0 leaves them "
                    "out.",
                ),
                declare(
                    io.Int.Input,
                    "first_block",
                    default=0,
                    min=0,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip="First block of the diffusion model that carries the identity, counted from 0. Blocks run "
                    "one after the other in every step; what an early one adds, all later ones work with.",
                ),
                declare(
                    io.Int.Input,
                    "last_block",
                    default=-1,
                    min=-1,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip="Last block that carries the identity; -1 is the model's last. The report names them.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "conditioned_model", display_name="model", tooltip="The model with the identity, for any sampler."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What will happen: blocks, steps, people and masks, and why nothing will, if so.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        slotid_model,
        identity,
        strength,
        start_percent,
        end_percent,
        mask=None,
        preset=CUSTOM,
        appearance=1.0,
        dynamics=1.0,
        first_block=0,
        last_block=-1,
    ) -> io.NodeOutput:
        own = Influence(strength, start_percent, end_percent, first_block, last_block, appearance, dynamics)
        # A strength of 0 is how people switch a node off, whatever else is set on it.
        influence = own if preset == CUSTOM or strength == 0 else PRESETS[preset]
        mask = None if mask is None else checked_mask(mask)
        patched, why = apply_identity(model, slotid_model, identity, influence, mask)
        lines = [] if influence is own else [f"Preset {preset}: {settings_of(influence)}."]
        if why:
            lines.append(f"Nothing changes here: {why}.")
            logging.warning("Slot-ID Apply changes nothing: %s.", why)
        report = "\n".join([*lines, *people_of(patched)])
        show_text(cls, report)
        return io.NodeOutput(patched, report, ui=ui.PreviewText(report))


def people_of(model) -> list[str]:
    """The people in a model and what each of them does, in lines."""
    people = [patch.person for patch in patches_in(model)]
    lines = []
    for number, person in enumerate(people, 1):
        lines += [f"Person {number} of {len(people)}: {person.name}"]
        lines += [f"- {line}" for line in describe(person, depth_of(model))]
    for line in advice(people):
        logging.warning("Slot-ID: %s", line)
        lines.append(line)
    return lines
