"""Train the demo video model: Wan 2.1's format, 256 wide and 6 blocks deep, by flow matching on demo-world latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .clips import target_prompt
from .fitting import Plan, fit
from .people import TRAIN
from .prompts import embed_empty, embed_prompt
from .seeds import stream

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

WIDTH, HEADS, DEPTH, FFN = 256, 2, 6, 1024
SHIFT = 3.0
PROMPT_DROPOUT = 0.1
BATCH = 64
PEOPLE = 2048
PLAN = Plan(steps=500, matrix_rate=0.01, other_rate=2e-3, warmup=50, decay=200, average=0.995)

# diffusers' names -> Wan's own, longest first within a block.
_BLOCK_NAMES = {
    "attn1.to_out.0": "self_attn.o", "attn2.to_out.0": "cross_attn.o",
    "attn1.to_": "self_attn.", "attn2.to_": "cross_attn.",
    "attn1.": "self_attn.", "attn2.": "cross_attn.",
    "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
    "scale_shift_table": "modulation", "norm2": "norm3",
}  # fmt: skip
_OUTER_NAMES = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}


def new_transformer(seed: int) -> WanTransformer3DModel:
    """A transformer with seeded weights; its output layer is zero."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, in_channels=16,
        out_channels=16, text_dim=4096, freq_dim=256, ffn_dim=FFN, num_layers=DEPTH, cross_attn_norm=True,
    )  # fmt: skip
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    return transformer


def train_dit(latents: Tensor, folder: Path, seed: int, steps: int) -> WanTransformer3DModel:
    """Train on target latents [N, 16, 5, 8, 8] of the first N training people, with their prompts."""
    transformer = new_transformer(seed)
    prompts = prompt_table(len(latents))

    def loss(step: int) -> Tensor:
        _, clean, noise, time, text = draw(latents, prompts, BATCH, "dit", seed, step)
        with torch.autocast("cpu", torch.bfloat16):
            return flow_loss(transformer, clean, noise, time, text).mean()

    def matrices(name: str) -> bool:
        return name.startswith("blocks.") and name.endswith("weight") and "norm" not in name

    plan = Plan(**{**vars(PLAN), "steps": steps})
    average = fit("dit", dict(transformer.named_parameters()), loss, plan, folder, matrices=matrices)
    transformer.load_state_dict(average)
    return transformer.eval().requires_grad_(False)


def prompt_table(count: int) -> Tensor:
    """Prompt embeddings [count, 4, 4096] of the take-0 targets of the first training people."""
    made = {}
    rows = []
    for person in TRAIN[:count]:
        prompt = target_prompt(person, 0)
        if prompt not in made:
            made[prompt] = embed_prompt(prompt.pose, prompt.expression, prompt.background)
        rows.append(made[prompt])
    return torch.stack(rows)


def draw(latents: Tensor, prompts: Tensor, count: int, *key: str | int) -> tuple[Tensor, ...]:
    """A step's batch: rows [B], clean latents, noise, flow time [B] in (0, 1), text with some prompts left out."""
    generator = stream(*key)
    rows = torch.randint(len(latents), (count,), generator=generator)
    clean = latents[rows].float()
    noise = torch.randn(clean.shape, generator=generator)
    u = torch.randn(count, generator=generator).sigmoid()
    dropped = torch.rand(count, generator=generator) < PROMPT_DROPOUT
    text = torch.where(dropped[:, None, None], embed_empty(), prompts[rows])
    return rows, clean, noise, SHIFT * u / (1 + (SHIFT - 1) * u), text


def flow_loss(transformer: WanTransformer3DModel, clean: Tensor, noise: Tensor, time: Tensor, text: Tensor) -> Tensor:
    """Squared error [B] of the predicted velocity noise - clean."""
    t = time[:, None, None, None, None]
    noisy = (1 - t) * clean + t * noise
    made = transformer(
        hidden_states=noisy, timestep=time * 1000, encoder_hidden_states=text, return_dict=False
    )[0]
    return (made.float() - (noise - clean)).square().flatten(1).mean(1)


def original_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A diffusers Wan transformer's tensors under Wan's own names."""
    return {_original(name): tensor for name, tensor in tensors.items()}


def _original(name: str) -> str:
    if name.startswith("blocks."):
        _, index, rest = name.split(".", 2)
        for ours, theirs in _BLOCK_NAMES.items():
            if rest.startswith(ours):
                rest = theirs + rest[len(ours) :]
                break
        return f"blocks.{index}.{rest}"
    for ours, theirs in _OUTER_NAMES.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name
