"""The task that makes the demo video model: Wan 2.1's format at a small width, by flow matching on the demo world."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .. import checkpoint
from ..pipelines.wan import HEAD_WIDTH, load_wan_transformer
from ..sheets import rows_sheet
from ..training.cache import DataSection
from ..training.config import Experiment, setting
from ..training.data import Order, PairStore
from ..training.flow import draw_rows, stream, velocity_error
from ..training.identity import QUARTERS, face_weighted, masked
from ..training.packaged import packaged
from ..training.sheet import sample_batch
from .store import decode, load_vae

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

TEXT_WIDTH = 4096

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


@dataclass(frozen=True)
class BackboneSection:
    """Sizes of the model.

    Args:
        width: a multiple of 128, the width of a head in every Wan.
        depth: blocks.
        ffn: width of the feed-forward layers.
        start: a file of the same sizes whose weights the training begins with; "" for seeded ones.
    """

    width: int = setting(256, HEAD_WIDTH, 5120)
    depth: int = setting(4, 1, 40)
    ffn: int = setting(1024, 1)
    start: str = ""


@dataclass(frozen=True)
class LossSection:
    """What is asked for.

    Args:
        shift: of the flow time.
        face: a cell of face counts 1 + face times as much as another. Eyes, mouth and marks are a few cells of 64: a
            model that is asked for all cells alike learns them last.
        text_dropout: part of the rows that go without a prompt.
    """

    shift: float = setting(3.0, 1e-6)
    face: float = setting(6.0, 0)
    text_dropout: float = setting(0.1, 0, 1)


@dataclass(frozen=True, kw_only=True)
class BackboneExperiment(Experiment):
    """The whole config of this task."""

    data: DataSection
    backbone: BackboneSection
    loss: LossSection


class BackboneTask:
    """See the module. `module` is the transformer; all targets of the store are its data."""

    def __init__(self, config: BackboneExperiment) -> None:
        self.config = config
        self.store = PairStore(Path(config.data.store))
        section = config.backbone
        if section.start:
            self.module = load_wan_transformer(packaged(section.start, "diffusion_model")).train().requires_grad_(True)
        else:
            self.module = new_transformer(section, config.run.seed)
        # Words are fixed random vectors, which any first layer keeps apart. A step of Adam on 4096 inputs at once would
        # throw its units out of their range, and words whose units are all dead are never learned.
        self.module.condition_embedder.text_embedder.linear_1.requires_grad_(False)
        self.order = Order(len(self.store.targets), config.run.seed)

    def report(self) -> str:
        return f"{len(self.store.targets)} clips"

    def to(self, device: torch.device) -> None:
        self.module.to(device)

    def batch(self, step: int, rows: range) -> dict[str, Tensor]:
        store, loss, run = self.store, self.config.loss, self.config.run
        noise, time, chances = draw_rows(run.seed, step, rows, store.targets.shape("latents"), loss.shift)
        targets = [self.order[step * run.batch + row] for row in rows]
        prompts = store.targets.take("text", targets).tolist()
        texts = [0 if c < loss.text_dropout else n for n, c in zip(prompts, chances[:, 1].tolist(), strict=True)]
        clean = store.targets.take("latents", targets)
        face = store.targets.take("face", targets)
        return {"clean": clean, "face": face, "noise": noise, "time": time, "text": store.text(texts)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        clean, time, text = batch["clean"].float(), batch["time"], batch["text"].float()
        error = velocity_error(self.module, clean, batch["noise"], time, text)
        rows = face_weighted(error, batch["face"].float(), self.config.loss.face)
        with torch.no_grad():
            quarter = (time * QUARTERS).long().clamp(max=QUARTERS - 1)
            parts = {"plain": masked(error.flatten(1).mean(1), torch.ones_like(time))}
            parts |= {f"t{i + 1}": masked(rows, (quarter == i).float()) for i in range(QUARTERS)}
        return rows.mean(), parts

    def matrices(self, name: str) -> bool:
        return name.startswith("blocks.") and name.endswith("weight") and "norm" not in name

    @torch.no_grad()
    def sample(self, step: int) -> np.ndarray:
        settings, store = self.config.samples, self.store
        device = next(self.module.parameters()).device
        shown = range(min(settings.rows, len(store.targets)))
        numbers = store.targets.take("text", shown).tolist()
        text = store.text(numbers).float().to(device)
        shape = (len(text), *store.targets.shape("latents"))
        noise = torch.randn(shape, generator=stream("sample", self.config.run.seed)).to(device)
        empty = store.text([0]).float().to(device).expand_as(text)
        made = sample_batch(self.module, noise, text, empty, settings)
        frames = decode(load_vae(packaged(settings.vae, "vae")), made.cpu())
        rows = [(store.prompts[number], clip) for number, clip in zip(numbers, frames, strict=True)]
        return rows_sheet(rows, title=f"step {step}")

    def save(self, folder: Path, steps: int) -> Path:
        path = folder / "diffusion_model.safetensors"
        write_demo_file(path, original_names(self.module.state_dict()), "video model", self.config, steps)
        return path


def new_transformer(section: BackboneSection, seed: int) -> WanTransformer3DModel:
    """A transformer with seeded weights; its output layer is zero."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=section.width // HEAD_WIDTH, attention_head_dim=HEAD_WIDTH,
        in_channels=16, out_channels=16, text_dim=TEXT_WIDTH, freq_dim=256, ffn_dim=section.ffn,
        num_layers=section.depth, cross_attn_norm=True,
    )  # fmt: skip
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    return transformer


def write_demo_file(path: Path, tensors: dict[str, Tensor], what: str, config: Experiment, steps: int) -> None:
    """Weights in Wan's own names, as float16, with what they were made by."""
    metadata = {
        "title": f"Slot-ID demo {what} in the Wan 2.1 layout",
        "trained_on": f"{config.run.trained_on}, seed {config.run.seed}; {steps} steps",
        "license": config.run.license,
        "experiment": json.dumps(asdict(config)),
    }
    checkpoint.write(path, {name: tensor.half() for name, tensor in tensors.items()}, metadata)


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
