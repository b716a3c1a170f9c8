"""The node that puts an identity into a diffusion model."""

from __future__ import annotations

from comfy_api.latest import io

from . import sockets
from .sockets import declare
from .wan_patch import apply_identity


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
            "bypass or remove this node, or set strength to 0, and the results are exactly the model's own.",
            search_aliases=["identity", "face", "likeness", "character", "consistent person", "faceid"],
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
                    "nothing at all.",
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
            ],
            outputs=[
                io.Model.Output(
                    "conditioned_model", display_name="model", tooltip="The model with the identity, for any sampler."
                )
            ],
        )

    @classmethod
    def execute(cls, model, slotid_model, identity, strength, start_percent, end_percent) -> io.NodeOutput:
        return io.NodeOutput(apply_identity(model, slotid_model, identity, strength, start_percent, end_percent))
