"""A Slot-ID model: the encoder that reads a clip and the conditioning that carries its tokens, in one file."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import checkpoint
from .conditioning import IdentityConditioning
from .config import SlotIDConfig
from .errors import SlotIDError, SlotIDWarning
from .identity import Identity, resize, thumbnails_of
from .latents import EncodeVideo, encode_frames
from .slots import IdentityEncoder, RoutingTrace

if TYPE_CHECKING:
    from .faces import Faces

FORMAT = "slot-id"
MAX_BYTES = 4 * 1024**3
# A token outside the face still counts this much: hair, neck and ears are part of a person.
SALIENCY_FLOOR = 0.1


class SlotID(nn.Module):
    """Encoder and conditioning for one backbone.

    Attributes:
        config: what the model is made of and for.
        name, hash: file name and SHA-256 of the file it came from; a model that was not loaded has none ("").
        metadata: the file's own words: `trained_on`, `license` and others.
    """

    def __init__(self, config: SlotIDConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = IdentityEncoder(config)
        self.conditioning = IdentityConditioning(config.conditioning, config.backbone, config.identity_width)
        self.conditioning.reset_output()
        self.name, self.hash = "", ""
        self.metadata: dict[str, str] = {}

    @classmethod
    def load(cls, path: str | os.PathLike) -> SlotID:
        """Read a Slot-ID model file, strictly, into float32.

        Raises:
            SlotIDError: not a Slot-ID model, of a newer version, damaged, with tensors missing or added, with NaN.
        """
        header = checkpoint.read_header(path, max_bytes=MAX_BYTES)
        checkpoint.check_format(path, header, FORMAT)
        model = _skeleton(path, header.metadata.get("config", ""), len(header.tensors))
        expected = {name: (checkpoint.FLOATS, tuple(t.shape)) for name, t in model.state_dict().items()}
        tensors = checkpoint.read_tensors(path, expected, header)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
        model.name, model.hash = Path(path).name, checkpoint.file_sha256(path)
        model.metadata = header.metadata
        return model.eval().requires_grad_(False)

    def save(
        self, path: str | os.PathLike, *, trained_on: str, license: str, dtype: torch.dtype = torch.float32
    ) -> None:
        """Write the model file; the same weights give the same bytes.

        Args:
            path: the file.
            trained_on: data and steps, in a sentence.
            license: of the weights.
            dtype: of the weights on disk.
        """
        metadata = {
            "format": FORMAT,
            "format_version": str(checkpoint.FORMAT_VERSION),
            "config": json.dumps(self.config.to_dict(), sort_keys=True),
            "backbone": str(self.config.backbone),
            "trained_on": trained_on,
            "license": license,
        }
        checkpoint.write(path, {name: t.to(dtype) for name, t in self.state_dict().items()}, metadata)

    @torch.no_grad()
    def encode(self, faces: Faces, encode_video: EncodeVideo, *, consent: str = "") -> Identity:
        """Read an identity from prepared faces. Deterministic; runs where the encoder's weights are.

        Args:
            faces: one tracked person.
            encode_video: the backbone's own VAE.
            consent: a note kept in the identity file.

        Raises:
            SlotIDError: a model that does not come from a file, or a VAE that does not fit.
        """
        return self.encode_with_routing(faces, encode_video, consent=consent)[0]

    @torch.no_grad()
    def encode_with_routing(
        self, faces: Faces, encode_video: EncodeVideo, *, consent: str = ""
    ) -> tuple[Identity, RoutingTrace]:
        """`encode`, with what the slots looked at."""
        if not self.hash:
            raise SlotIDError(
                "a Slot-ID model that was never saved", "a model from a file", "save it, then SlotID.load the file."
            )
        encoder, frames = self.config.encoder, faces.crops.shape[0]
        if frames == 1:
            warnings.warn(
                "The reference is a single photo: how this person moves will be guessed. A clip of a few seconds with "
                "turns of the head and a smile is better.",
                SlotIDWarning,
                stacklevel=2,
            )
        crops = resize(faces.crops, encoder.crop_size)
        latents = encode_frames(crops, encode_video, self.config.backbone)
        weight = self.encoder.tokenizer.project.weight
        grid = encoder.crop_size // self.config.backbone.spatial_stride // encoder.patch
        saliency = token_saliency(faces.masks, grid)
        latents, saliency = latents[None].to(weight), saliency[None].to(weight)
        tokens, trace = self.encoder(latents, saliency)
        if not torch.isfinite(tokens).all():
            raise SlotIDError("the encoder made NaN from this clip", "finite tokens", "report this clip as a bug.")
        clip = faces.clip
        identity = Identity(
            tokens=tokens[0].float().cpu(),
            thumbnails=thumbnails_of(faces.crops.cpu()),
            coverage=faces.coverage.to_dict(),
            model_name=self.name,
            model_hash=self.hash,
            backbone=self.config.backbone,
            source=clip.source,
            source_hash=clip.sha256,
            frames_used=tuple(clip.timestamps.tolist()),
            consent=consent,
            evidence=trace.evidence[0].exp().float().cpu(),
        )
        return identity, trace

    def check_backbone(self, width: int, depth: int, latent_channels: int) -> None:
        """Hold a video model's sizes against those this model was made for.

        Raises:
            SlotIDError: another width, depth or number of latent channels, naming both.
        """
        backbone = self.config.backbone
        if (width, depth, latent_channels) != (backbone.width, backbone.depth, backbone.latent_channels):
            raise SlotIDError(
                f"a video model of width {width} with {depth} blocks and {latent_channels} latent channels",
                f"{backbone}, for which {self.name or 'this Slot-ID model'} was made",
                "load that video model, or a Slot-ID model made for this one.",
            )

    def condition(
        self,
        transformer: Any,
        identity: Identity,
        *,
        strength: float = 1.0,
        start: float = 0.0,
        end: float = 1.0,
        shift: float = 8.0,
        mask: Tensor | None = None,
        **more: float,
    ) -> AbstractContextManager[None]:
        """Condition a diffusers WanTransformer3DModel inside a `with` block; afterwards it is as it was.

        Args:
            transformer: the frozen backbone.
            identity: made by this model.
            strength: 0 changes nothing.
            start, end: the part of the sampling, as fractions of it, in which the identity acts.
            shift: the sampler's shift of the flow time, by which start and end are counted.
            mask: where the person is, [H, W] or [n, H, W] over the whole video; several people: nest the blocks.
            more: first_block, last_block, appearance, dynamics of `Influence`.
        """
        # The hosts' side imports this module.
        from .pipelines.diffusers_adapter import condition_transformer

        return condition_transformer(
            self, transformer, identity, strength=strength, start=start, end=end, shift=shift, mask=mask, **more
        )


def token_saliency(masks: Tensor, grid: int) -> Tensor:
    """Face masks [T, H, W] in 0..1, T = 4k+1, to token weights [F, grid, grid] in SALIENCY_FLOOR..1.

    The Wan VAE makes one latent frame of the first frame alone and one of every four that follow.
    """
    small = torch.nn.functional.adaptive_avg_pool2d(masks.unsqueeze(1), grid).squeeze(1)
    rest = small[1:].unflatten(0, (-1, 4)).mean(1)
    return SALIENCY_FLOOR + (1 - SALIENCY_FLOOR) * torch.cat([small[:1], rest])


def _skeleton(path: str | os.PathLike, text: str, tensors: int) -> SlotID:
    """The model a file's config describes, before any memory is spent on weights."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SlotIDError(
            f"{Path(path).name!r} has no readable config",
            "the config every Slot-ID model carries",
            "get the file again from where it was published.",
        ) from error
    config = SlotIDConfig.from_dict(data)
    # A made-up config could ask for a million blocks; a file holds several tensors for each.
    blocks = config.backbone.depth // config.conditioning.stride + config.encoder.depth
    if blocks > tensors:
        raise SlotIDError(
            f"{Path(path).name!r} describes {blocks} blocks and holds {tensors} tensors",
            "a config that fits its tensors",
            "get the file again from where it was published.",
        )
    with torch.device("meta"):
        return SlotID(config)
