"""Models of Wan's shape with random weights, and the identity on them as a host puts it there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slotid_core.conditioning import IdentityConditioning, apply_residual
from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.model import SlotID

HEAD, TEXT_WIDTH, TEXT_TOKENS, CHANNELS = 128, 4096, 512, 16
# 81 frames at 480p (832 x 480): latents of 21 frames, 60 x 104, two by two of them a token.
LATENT = (21, 60, 104)
FRAMES, CROP = 81, 256


class Size(NamedTuple):
    """One published model: width, depth, width of its feed-forward layer, parameters."""

    width: int
    depth: int
    inner: int
    parameters: float


SIZES = {"1.3B": Size(1536, 30, 8960, 1.42e9), "14B": Size(5120, 40, 13824, 14.3e9)}


def tokens_of(latent: tuple[int, int, int]) -> int:
    """Tokens of latents [frames, height, width]."""
    return latent[0] * (latent[1] // 2) * (latent[2] // 2)


def transformer(size: Size, blocks: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """diffusers' Wan transformer of this size with this many blocks."""
    from diffusers import WanTransformer3DModel
    from diffusers.utils import logging

    # It advises to keep norms in float32, which changes no timing that is compared here.
    logging.set_verbosity_error()
    with torch.device(device):
        model = WanTransformer3DModel(
            num_attention_heads=size.width // HEAD,
            attention_head_dim=HEAD,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            text_dim=TEXT_WIDTH,
            ffn_dim=size.inner,
            num_layers=blocks,
        )
    return model.to(dtype).eval().requires_grad_(False)


def slotid(size: Size, blocks: int, device: torch.device, dtype: torch.dtype) -> SlotID:
    """A Slot-ID model of the published settings for this size; its output weights are 0, which costs the same."""
    config = SlotIDConfig(Backbone("wan2.1", size.width, blocks), EncoderConfig(), ConditioningConfig())
    with torch.device(device):
        return SlotID(config).to(dtype).eval().requires_grad_(False)


def call(model: nn.Module, latent: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of one call of the transformer."""
    return {
        "hidden_states": torch.randn(1, CHANNELS, *latent, device=device, dtype=dtype),
        "timestep": torch.full((1,), 500.0, device=device),
        "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, TEXT_WIDTH, device=device, dtype=dtype),
        "return_dict": False,
    }


@contextmanager
def conditioned(model: nn.Module, conditioning: IdentityConditioning, tokens: Tensor) -> Iterator[None]:
    """The identity after every block, keys and values made once, as the hosts do it."""
    prepared = conditioning.prepare(tokens)
    gates: dict[int, Tensor] = {}

    def begin(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        gates.update(conditioning.gate(kwargs["timestep"] / 1000.0, tokens.dtype))

    def add(block: int):
        def hook(module: nn.Module, args: tuple, x: Tensor) -> Tensor:
            def residual(part: Tensor, rows: slice) -> Tensor:
                return conditioning.residual(block, part, prepared, gates[block][rows])

            return apply_residual(x, residual, rows=[slice(None)], tokens=slice(None), strength=1.0, owned=True)

        return hook

    handles = [model.register_forward_pre_hook(begin, with_kwargs=True)]
    handles += [model.blocks[i].register_forward_hook(add(i)) for i in conditioning.blocks_used]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def vae(device: torch.device, dtype: torch.dtype) -> nn.Module:
    """diffusers' Wan VAE at its published width."""
    from diffusers import AutoencoderKLWan

    with torch.device(device):
        return AutoencoderKLWan().to(dtype).eval().requires_grad_(False)


def encode(model: SlotID, autoencoder: nn.Module, frames: Tensor) -> Tensor:
    """Crops [1, 3, T, H, W] to identity tokens: the VAE and the encoder."""
    latents = autoencoder.encode(frames).latent_dist.mode()
    return model.encoder(torch.zeros(latents.shape) if latents.is_meta else latents)[0]
