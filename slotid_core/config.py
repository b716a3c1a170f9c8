"""The numbers that define a Slot-ID model, as stored in its file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import SlotIDError

FAMILIES = ("wan2.1", "wan2.2")
# Latent channels -> pixels to one latent along a side, of the two VAEs in the family.
SPATIAL_STRIDES = {16: 8, 48: 16}


@dataclass(frozen=True)
class Backbone:
    """The frozen video model a Slot-ID model was made for.

    Args:
        family: "wan2.1" or "wan2.2" (the latent space and the checkpoint format).
        width: model width (1536 for Wan 2.1 1.3B, 5120 for 14B).
        depth: number of transformer blocks (30, 40).
        latent_channels: channels of the VAE's latents: 16, or 48 for Wan 2.2 5B, which has a VAE of its own.
    """

    family: str
    width: int
    depth: int
    latent_channels: int = 16

    @property
    def spatial_stride(self) -> int:
        """Pixels to one latent along a side."""
        return SPATIAL_STRIDES[self.latent_channels]

    @classmethod
    def from_dict(cls, data: Any) -> Backbone:
        """Rebuild from `dataclasses.asdict`'s form, strictly. Raises SlotIDError naming the entry."""
        return _build(cls, "backbone", data)

    def __str__(self) -> str:
        return f"{self.family}, width {self.width}, {self.depth} blocks, {self.latent_channels} latent channels"


@dataclass(frozen=True)
class EncoderConfig:
    """The reader of the reference clip.

    Args:
        width: token width D.
        depth: trunk blocks (spatial then temporal attention each).
        heads: attention heads of the trunk and of the routing.
        slots: number S of identity slots; an identity has 2 S tokens.
        eps: entropic regularisation of the routing, on normalised queries and keys.
        iterations: Sinkhorn iterations K per latent frame.
        patch: spatial patch over latents.
        crop_size: side in pixels to which face crops are brought before the VAE.
    """

    width: int = 512
    depth: int = 4
    heads: int = 8
    slots: int = 16
    eps: float = 0.2
    iterations: int = 5
    patch: int = 2
    crop_size: int = 256


@dataclass(frozen=True)
class ConditioningConfig:
    """The residual added after the backbone's blocks.

    Args:
        inner_width: width of the added attention.
        heads: heads of the added attention.
        stride: a residual after every `stride`-th block.
    """

    inner_width: int = 256
    heads: int = 4
    stride: int = 1


@dataclass(frozen=True)
class SlotIDConfig:
    """Everything needed to rebuild a Slot-ID model before its weights are read.

    Args:
        identity_width: width D_id of an identity token.
    """

    backbone: Backbone
    encoder: EncoderConfig
    conditioning: ConditioningConfig
    identity_width: int = 512

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> SlotIDConfig:
        """Rebuild from `to_dict`'s form, strictly: unknown, missing, mistyped or senseless entries are refused.

        Raises:
            SlotIDError: naming the entry.
        """
        parts = {"backbone": Backbone, "encoder": EncoderConfig, "conditioning": ConditioningConfig}
        _check_keys("config", data, [*parts, "identity_width"])
        built = {name: _build(kind, name, data[name]) for name, kind in parts.items()}
        config = cls(**built, identity_width=_positive("identity_width", data["identity_width"], int))
        _check_sense(config)
        return config


def _build(kind: type, name: str, data: Any) -> Any:
    _check_keys(name, data, [field.name for field in fields(kind)])
    types = {"int": int, "float": float, "str": str}
    return kind(**{f.name: _positive(f"{name}.{f.name}", data[f.name], types[f.type]) for f in fields(kind)})


def _check_keys(name: str, data: Any, expected: list[str]) -> None:
    keys = sorted(data) if isinstance(data, dict) else data
    if keys != sorted(expected):
        raise _refusal(f"The entry {name!r} of the model's config is {keys!r:.200}", f"the entries {sorted(expected)}")


def _positive(name: str, value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    # bool is an int to isinstance; a config that says `true` for a width is broken.
    if type(value) is not kind or (kind is not str and not 0 < value < 1e6):
        raise _refusal(f"{name} = {value!r:.80}", f"a {kind.__name__}" + ("" if kind is str else " above 0"))
    return value


def _check_sense(config: SlotIDConfig) -> None:
    encoder, conditioning, backbone = config.encoder, config.conditioning, config.backbone
    if backbone.family not in FAMILIES:
        raise _refusal(f"backbone.family = {backbone.family!r}", f"one of {', '.join(FAMILIES)}")
    for name, width, heads in (
        ("encoder", encoder.width, encoder.heads),
        ("conditioning", conditioning.inner_width, conditioning.heads),
    ):
        if width % heads:
            raise _refusal(f"the {name}'s width {width} for {heads} heads", "a width that its heads divide")
    if backbone.latent_channels not in SPATIAL_STRIDES:
        raise _refusal(f"backbone.latent_channels = {backbone.latent_channels}", "16 or 48")
    side = backbone.spatial_stride * encoder.patch
    if encoder.crop_size % side:
        raise _refusal(f"encoder.crop_size = {encoder.crop_size}", f"a multiple of {side}")
    if encoder.slots > 128:
        raise _refusal(f"encoder.slots = {encoder.slots}", "at most 128 slots")
    if conditioning.stride > backbone.depth:
        raise _refusal(
            f"conditioning.stride = {conditioning.stride} for {backbone.depth} blocks", "a stride no larger than that"
        )


def _refusal(found: str, expected: str) -> SlotIDError:
    return SlotIDError(found, expected, "use a Slot-ID model file as it was published, or train one with this version.")
