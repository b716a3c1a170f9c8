"""The node that guides by the text and by the identity, each with its own scale."""

from __future__ import annotations

import logging
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io, ui

from ..slotid_core.guidance import IDENTITY, NEGATIVE, TEXT, answers, towards_identity
from . import sockets
from .host import show_text
from .sockets import declare
from .wan_patch import acting, patches_in

# The positive prompt under another name: only what is called positive carries the identity.
WITHOUT = "without_identity"
WORDS = {IDENTITY: "prompt with identity", TEXT: "prompt without identity", NEGATIVE: "negative prompt"}


class Guider(io.ComfyNode):
    """Slot-ID Guider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDGuider",
            display_name="Slot-ID Guider",
            category=sockets.CATEGORY,
            description="Guides by the prompt and by the identity, each with a scale of its own, for "
            "SamplerCustomAdvanced. More identity without overdoing the prompt, or the other way round.",
            search_aliases=["identity cfg", "guidance", "dual cfg", "likeness strength", "cfg guider"],
            has_intermediate_output=True,
            inputs=[
                declare(io.Model.Input, "model", tooltip="The model with the identity in it, from Slot-ID Apply."),
                declare(io.Conditioning.Input, "positive", tooltip="The prompt. It alone carries the identity."),
                declare(io.Conditioning.Input, "negative", tooltip="What to avoid; not used while cfg is 1."),
                declare(
                    io.Float.Input,
                    "cfg",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the prompt guides. 1 is none, and saves a call of the model in each step.",
                ),
                declare(
                    io.Float.Input,
                    "identity_cfg",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    round=0.01,
                    tooltip="How strongly the identity guides, in units of cfg. 1 is exactly ComfyUI's CFGGuider; 0 is "
                    "without the identity. Anything else takes one more call of the model in each step in which the "
                    "identity acts.",
                ),
            ],
            outputs=[
                io.Guider.Output("guider", display_name="guider", tooltip="For SamplerCustomAdvanced."),
                io.String.Output(
                    "report", display_name="report", tooltip="What the model is asked in each step, and how often."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, positive, negative, cfg, identity_cfg) -> io.NodeOutput:
        guider = IdentityGuider(model, positive, negative, cfg, identity_cfg)
        report = report_of(bool(patches_in(model)), cfg, identity_cfg)
        show_text(cls, report)
        return io.NodeOutput(guider, report, ui=ui.PreviewText(report))


class IdentityGuider(comfy.samplers.CFGGuider):
    """The host's guider, whose answer to the positive prompt is guided by the identity first.

    Everything after that is the host's own: other packs' guidance, rescaling and post-processing work on it.
    """

    def __init__(self, model, positive: list, negative: list, cfg: float, identity_cfg: float) -> None:
        super().__init__(model)
        self.wanted = answers(cfg, identity_cfg)
        self.identity_cfg = identity_cfg
        conds = {"positive": positive, "negative": negative}
        self.inner_set_conds(conds if TEXT not in self.wanted else {**conds, WITHOUT: positive})
        self.set_cfg(cfg)

    def predict_noise(
        self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict | None = None, seed: int | None = None
    ) -> torch.Tensor:
        options = model_options or {}
        if TEXT not in self.wanted or not acting(self.model_patcher, timestep):
            return super().predict_noise(x, timestep, options, seed)
        positive = self.conds[WITHOUT]
        if IDENTITY in self.wanted:
            positive = self.conds["positive"]
            options = {**options, "sampler_calc_cond_batch_function": self._answers_of(options)}
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, self.conds["negative"], positive, self.cfg, model_options=options, seed=seed
        )

    def _answers_of(self, options: dict) -> Any:
        """What the host calls for its two answers: all three from one batch, the positive one guided."""
        earlier = options.get("sampler_calc_cond_batch_function")

        def calculate(conds: list, args: dict) -> list[torch.Tensor]:
            return comfy.samplers.calc_cond_batch(args["model"], conds, args["input"], args["sigma"], options)

        def run(args: dict) -> list[torch.Tensor]:
            if earlier is None:
                *out, without = calculate([*args["conds"], self.conds[WITHOUT]], args)
            else:
                # Another pack's function knows of two answers only.
                out = list(earlier({**args, "model_options": options}))
                (without,) = calculate([self.conds[WITHOUT]], args)
            return [towards_identity(out[0], without, self.identity_cfg), *out[1:]]

        return run


def report_of(identity: bool, cfg: float, identity_cfg: float) -> str:
    """What the model is asked in each step, in words."""
    if not identity:
        said = (
            "There is no identity in this model, so identity_cfg changes nothing. Put Slot-ID Apply before this node."
        )
        logging.warning("Slot-ID Guider: %s", said)
        return said
    wanted = [WORDS[name] for name in answers(cfg, identity_cfg)]
    calls = f"{len(wanted)} answer{'s' * (len(wanted) > 1)} of the model in each step: {', '.join(wanted)}."
    ends = {1.0: " Exactly ComfyUI's CFGGuider.", 0.0: " The identity is left out."}
    return calls + ends.get(identity_cfg, " Outside of Apply's range of steps, one less.")
