"""Train the demo Slot-ID model on the frozen demo video model; reference and target are two takes of one person.

Nothing is dropped for identity guidance: without identity the model is the frozen backbone itself, and a row that is
left out has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from ..model import SlotID
from .build_dit import DEPTH, draw, flow_loss, prompt_table
from .build_dit import WIDTH as BACKBONE_WIDTH
from .fitting import Plan, fit

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

CONFIG = SlotIDConfig(
    backbone=Backbone("wan2.1", BACKBONE_WIDTH, DEPTH),
    encoder=EncoderConfig(width=192, depth=2, heads=4, slots=16, patch=2, crop_size=64),
    conditioning=ConditioningConfig(inner_width=128, heads=4, stride=1),
    identity_width=192,
)
BATCH = 24
PEOPLE = 1024
PLAN = Plan(steps=300, matrix_rate=0.01, other_rate=2e-3, warmup=20, decay=100, average=0.99)


def new_slotid(seed: int) -> SlotID:
    """A Slot-ID model with seeded weights."""
    torch.manual_seed(seed)
    return SlotID(CONFIG)


def train_identity(
    transformer: WanTransformer3DModel, targets: Tensor, references: Tensor, folder: Path, seed: int, steps: int
) -> SlotID:
    """Train on latents of the same people's targets [N,16,5,8,8] and references [N,16,9,8,8]."""
    model = new_slotid(seed)
    prompts = prompt_table(len(targets))
    transformer.requires_grad_(False)

    def loss(step: int) -> Tensor:
        rows, clean, noise, time, text = draw(targets, prompts, BATCH, "identity", seed, step)
        tokens, _ = model.encoder(references[rows].float())
        # The routing's gradient is exact in float32; the backbone does not need that.
        with torch.autocast("cpu", torch.bfloat16):
            return conditioned_loss(model, transformer, tokens, clean, noise, time, text).mean()

    def matrices(name: str) -> bool:
        return name.endswith("weight") and "gates" not in name and "norm" not in name

    plan = Plan(**{**vars(PLAN), "steps": steps})
    average = fit("identity", dict(model.named_parameters()), loss, plan, folder, matrices=matrices)
    model.load_state_dict(average)
    return model.eval().requires_grad_(False)


def conditioned_loss(
    model: SlotID,
    transformer: WanTransformer3DModel,
    tokens: Tensor,
    clean: Tensor,
    noise: Tensor,
    time: Tensor,
    text: Tensor,
) -> Tensor:
    """`flow_loss` [B] with each row conditioned on its own identity tokens [B, 2S, D_id]."""
    conditioning = model.conditioning
    prepared = conditioning.prepare(tokens)
    gates = conditioning.gate(time, tokens.dtype)

    def hook(block: int) -> Callable[..., Tensor]:
        return lambda module, inputs, x: x + conditioning.residual(block, x, prepared, gates[block])

    with ExitStack() as undo:
        for block in conditioning.blocks_used:
            undo.callback(transformer.blocks[block].register_forward_hook(hook(block)).remove)
        return flow_loss(transformer, clean, noise, time, text)
