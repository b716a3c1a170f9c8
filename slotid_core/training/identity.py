"""The task that makes a Slot-ID model: encoder and conditioning learn on a frozen Wan backbone.

A row is a target clip of a person and a reference clip of another take of the same person, never the same take: that
would teach to copy. The loss is the backbone's own flow-matching loss with the identity added, weighted up in the face.

Text is dropped for guidance by the prompt. Identity dropout on a frozen backbone trains nothing: without identity the
model *is* the backbone, so guidance with respect to the identity needs no training, and a row without it has no
gradient. Such rows run through the backbone alone; their loss is logged as `none`, a yardstick for `identity`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import checkpoint
from ..config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from ..errors import SlotIDError
from ..model import SlotID
from ..pipelines.wan import load_wan_transformer
from .cache import DataSection
from .config import Experiment, setting
from .data import Order, PairStore
from .flow import conditioned, draw_rows, velocity_error
from .packaged import packaged
from .parts import draw_parts, read_parts
from .sheet import identity_sheet
from .variants import new_variant, variant

WEIGHT_TYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
QUARTERS = 4


@dataclass(frozen=True)
class BackboneSection:
    """The frozen video model.

    Args:
        file: safetensors with the original Wan names; "demo" is the packaged one.
        family: "wan2.1" or "wan2.2", which the file does not tell.
        checkpointing: make the activations of each block again on the way back, instead of keeping them.
    """

    file: str
    family: str = "wan2.1"
    checkpointing: bool = False


@dataclass(frozen=True)
class ModelSection:
    """What is trained; `variant` names an encoder of `variants.py`, "full" is Slot-ID itself."""

    encoder: EncoderConfig
    conditioning: ConditioningConfig
    identity_width: int = 512
    variant: str = "full"


@dataclass(frozen=True)
class LossSection:
    """What is asked for.

    Args:
        shift: of the flow time, as the backbone was trained.
        face: a latent cell of face counts 1 + face times as much as one without.
        diversity: weight of the mean squared cosine between appearance tokens of one identity.
        attributes: weight of the mean squared error of what a linear layer reads from the tokens of what is known of
            the person, `attributes` in the store. The layer is left out of what is made.
        text_dropout, identity_dropout: parts of the rows that go without.
        parts: share of the rows whose reference is cut in two in time. Half of these are read part by part and their
            tokens weighed together, as identities are merged; the others lack one part, as clips often do.
    """

    shift: float = setting(3.0, 1e-6)
    face: float = setting(1.0, 0)
    diversity: float = setting(0.001, 0)
    attributes: float = setting(0.0, 0)
    text_dropout: float = setting(0.1, 0, 1)
    identity_dropout: float = setting(0.1, 0, 1)
    parts: float = setting(0.0, 0, 1)


@dataclass(frozen=True, kw_only=True)
class IdentityExperiment(Experiment):
    """The whole config of this task."""

    data: DataSection
    backbone: BackboneSection
    model: ModelSection
    loss: LossSection


class IdentityTask:
    """See the module. `module` is the Slot-ID model."""

    def __init__(self, config: IdentityExperiment) -> None:
        self.config = config
        self.store = PairStore(Path(config.data.store))
        if not self.store.usable:
            raise SlotIDError(
                f"no pair in {config.data.store!r}: each of its {len(self.store.alone)} people has one take only",
                "people with two takes or more",
                "add other recordings of the same people to the manifest, and cache them.",
            )
        self.transformer = load_wan_transformer(
            packaged(config.backbone.file, "diffusion_model"), dtype=WEIGHT_TYPES[config.run.precision]
        )
        if config.backbone.checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.reads = variant(config.model.variant).reference
        self.module = self._new_model()
        self._check_store()
        if config.loss.attributes:
            tokens = 2 * self.module.config.encoder.slots * self.module.config.identity_width
            self.module.readout = torch.nn.Linear(tokens, *self.store.references.shape("attributes"))
        self.order = Order(len(self.store.usable), config.run.seed)

    def report(self) -> str:
        """A line about the pairs, left-out people counted."""
        return self.store.report()

    def to(self, device: torch.device) -> None:
        self.transformer.to(device)
        self.module.to(device)

    def batch(self, step: int, rows: range) -> dict[str, Tensor]:
        store, loss, run = self.store, self.config.loss, self.config.run
        noise, time, chances = draw_rows(run.seed, step, rows, store.targets.shape("latents"), loss.shift)
        targets = [store.usable[self.order[step * run.batch + row]] for row in rows]
        choice, text_chance, identity_chance = chances.T.tolist()
        partners = (store.partners[target] for target in targets)
        references = [p[int(c * len(p))] for p, c in zip(partners, choice, strict=True)]
        prompts = store.targets.take("text", targets).tolist()
        texts = [0 if c < loss.text_dropout else n for n, c in zip(prompts, text_chance, strict=True)]
        batch = {
            "clean": store.targets.take("latents", targets),
            "face": store.targets.take("face", targets),
            "text": store.text(texts),
            "reference": self._reference(references),
            "noise": noise,
            "time": time,
            "keep": torch.tensor([float(c >= loss.identity_dropout) for c in identity_chance]),
        }
        if loss.parts:
            batch |= draw_parts(run.seed, step, rows, loss.parts, batch["reference"].shape[2])
        if loss.attributes:
            batch["attributes"] = store.references.take("attributes", references)
        if "saliency" in store.references.names() and self.reads == "clip":
            cells = store.references.take("saliency", references).float()
            batch["saliency"] = F.avg_pool2d(cells, self.config.model.encoder.patch)
        return batch

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        clean, time, keep = batch["clean"].float(), batch["time"], batch["keep"]
        saliency = batch["saliency"].float() if "saliency" in batch else None
        cuts = {name: batch[name] for name in ("part", "cut") if name in batch}
        tokens = read_parts(self.module.encoder, batch["reference"].float(), saliency, **cuts)
        alike = likeness_of_slots(tokens[:, : tokens.shape[1] // 2])
        with conditioned(self.module, self.transformer, tokens, keep):
            error = velocity_error(self.transformer, clean, batch["noise"], time, batch["text"].float())
        rows = face_weighted(error, batch["face"].float(), self.config.loss.face)
        total = rows.mean() + self.config.loss.diversity * alike.mean()
        every = torch.ones_like(keep)
        parts = {"identity": masked(rows, keep), "none": masked(rows, 1 - keep), "alike": masked(alike, every)}
        if self.config.loss.attributes:
            # Of length one, so that a step of Adam's does not move what is read by a multiple of itself.
            flat = F.layer_norm(tokens, tokens.shape[-1:]).flatten(1) / tokens[0].numel() ** 0.5
            read = self.module.readout(flat)
            missed = (read.float() - batch["attributes"].float()).square().mean(1)
            total = total + self.config.loss.attributes * missed.mean()
            parts["attributes"] = masked(missed, every)
        with torch.no_grad():
            quarter = (time * QUARTERS).long().clamp(max=QUARTERS - 1)
            parts |= {f"t{i + 1}": masked(rows, keep * (quarter == i)) for i in range(QUARTERS)}
        return total, parts

    def matrices(self, name: str) -> bool:
        return name.endswith("weight") and not any(word in name for word in ("gates", "norm", "readout"))

    @torch.no_grad()
    def sample(self, step: int) -> np.ndarray:
        targets = self.store.usable[: self.config.samples.rows]
        references = [self.store.partners[target][0] for target in targets]
        device = next(self.module.parameters()).device
        tokens, _ = self.module.encoder(self._reference(references).float().to(device))
        return identity_sheet(self, targets, references, tokens, f"step {step}")

    def save(self, folder: Path, steps: int) -> Path:
        run, path = self.config.run, folder / "slotid.safetensors"
        self.module.save(path, trained_on=f"{run.trained_on}, seed {run.seed}; {steps} steps", license=run.license)
        metadata = checkpoint.read_header(path).metadata | {"experiment": json.dumps(asdict(self.config))}
        if self.config.model.variant != "full":
            # Other encoders than Slot-ID's own are for comparison; hosts refuse them by this.
            metadata |= {"format": "slot-id-variant", "variant": self.config.model.variant}
        tensors = {n: t for n, t in safetensors.torch.load_file(path).items() if not n.startswith("readout.")}
        checkpoint.write(path, tensors, metadata)
        return path

    def _new_model(self) -> SlotID:
        sizes, clips = self.transformer.config, self.store.references
        width = sizes.num_attention_heads * sizes.attention_head_dim
        backbone = Backbone(self.config.backbone.family, width, sizes.num_layers, sizes.out_channels)
        parameters = clips.shape("parameters")[0] if "parameters" in clips.names() else 0
        section = self.config.model
        return new_variant(section.variant, model_config(section, backbone), self.config.run.seed, parameters)

    def _reference(self, references: list[int]) -> Tensor:
        if self.reads not in ("clip", "first"):
            return self.store.references.take(self.reads, references)
        latents = self.store.references.take("latents", references)
        # The first frame stands alone in a Wan VAE's latents.
        return latents[:, :, :1] if self.reads == "first" else latents

    def _check_store(self) -> None:
        """Hold the store against the backbone and the encoder."""
        store, backbone, encoder = self.store, self.module.config.backbone, self.module.config.encoder
        side = encoder.crop_size // backbone.spatial_stride
        reference, text = store.references.shape("latents"), store.text([0]).shape[-1]
        known = store.references.names() | {"clip", "first"}
        checks = [
            (store.targets.shape("latents")[0] == backbone.latent_channels, "targets of other channels"),
            (reference[-2:] == (side, side), f"references of {reference[-2:]} latent cells, not {(side, side)}"),
            (text == self.transformer.config.text_dim, f"prompts of width {text}"),
            (self.reads in known, f"no {self.reads!r} for the references"),
            (not self.config.loss.parts or (reference[1] > 2 and self.reads == "clip"), "references too short to cut"),
            (not self.config.loss.attributes or "attributes" in known, "no 'attributes' of the references' people"),
        ]
        for fine, found in checks:
            if not fine:
                raise SlotIDError(
                    f"the store {self.config.data.store!r} has {found}",
                    f"what {backbone} and encoder.crop_size = {encoder.crop_size} need",
                    "cache the clips with this config, into another folder.",
                )


def model_config(section: ModelSection, backbone: Backbone) -> SlotIDConfig:
    """The config of a Slot-ID model. Raises SlotIDError for sizes that make no sense."""
    sizes = asdict(section)
    del sizes["variant"]
    return SlotIDConfig.from_dict({"backbone": asdict(backbone), **sizes})


def face_weighted(error: Tensor, face: Tensor, weight: float) -> Tensor:
    """Mean [B] of errors [B, C, F, h, w] in which a cell counts 1 + weight * face; face [B, F, h, w] in 0 .. 1.

    The weights of a row add up to one, so a large face does not make a row count more.
    """
    weights = (1 + weight * face).unsqueeze(1)
    return (error * weights).flatten(1).mean(1) / weights.flatten(1).mean(1)


def likeness_of_slots(tokens: Tensor) -> Tensor:
    """Mean squared cosine [B] between different ones of the tokens [B, S, D]: 0 where all are orthogonal."""
    S = tokens.shape[1]
    cosines = F.normalize(tokens, dim=-1)
    cosines = cosines @ cosines.transpose(1, 2)
    return (cosines.square().sum((1, 2)) - S) / max(1, S * (S - 1))


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """[sum of the values where the mask is 1, how many these are]."""
    return torch.stack([(values.detach() * mask).sum(), mask.sum()])
