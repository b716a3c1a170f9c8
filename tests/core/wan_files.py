"""Small random files in the original Wan layout, written name by name as the format has them."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from safetensors.torch import save_file

from slotid_core.identity import Identity
from slotid_core.model import SlotID

Shapes = dict[str, tuple[int, ...]]


def _layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def dit_shapes(width: int = 128, depth: int = 2, ffn: int = 64, text: int = 32, channels: int = 16) -> Shapes:
    """Every tensor of a Wan 2.1 text-to-video diffusion model of that size."""
    shapes = _layer("patch_embedding", width, channels, 1, 2, 2)
    shapes |= _layer("text_embedding.0", width, text) | _layer("text_embedding.2", width, width)
    shapes |= _layer("time_embedding.0", width, 256) | _layer("time_embedding.2", width, width)
    shapes |= _layer("time_projection.1", 6 * width, width)
    for block in (f"blocks.{i}" for i in range(depth)):
        for attention in (f"{block}.self_attn", f"{block}.cross_attn"):
            for name in "qkvo":
                shapes |= _layer(f"{attention}.{name}", width, width)
            shapes |= {f"{attention}.norm_q.weight": (width,), f"{attention}.norm_k.weight": (width,)}
        shapes |= _layer(f"{block}.ffn.0", ffn, width) | _layer(f"{block}.ffn.2", width, ffn)
        shapes |= _layer(f"{block}.norm3", width) | {f"{block}.modulation": (1, 6, width)}
    return shapes | _layer("head.head", 4 * channels, width) | {"head.modulation": (1, 2, width)}


def vae_shapes(base: int = 8, latent: int = 16) -> Shapes:
    """Every tensor of a VAE in the Wan 2.1 layout of that base width."""
    down, up = [base, base, 2 * base, 4 * base, 4 * base], [4 * base, 4 * base, 4 * base, 2 * base, base]
    shapes = _layer("encoder.conv1", base, 3, 3, 3, 3)
    index = 0
    for stage, (inputs, outputs) in enumerate(itertools.pairwise(down)):
        for width in (inputs, outputs):
            shapes |= _residual(f"encoder.downsamples.{index}", width, outputs)
            index += 1
        if stage < 3:
            shapes |= _layer(f"encoder.downsamples.{index}.resample.1", outputs, outputs, 3, 3)
            if stage > 0:
                shapes |= _layer(f"encoder.downsamples.{index}.time_conv", outputs, outputs, 3, 1, 1)
            index += 1
    shapes |= _middle("encoder", down[-1]) | _head("encoder", down[-1], 2 * latent)
    shapes |= _layer("conv1", 2 * latent, 2 * latent, 1, 1, 1) | _layer("conv2", latent, latent, 1, 1, 1)
    shapes |= _layer("decoder.conv1", up[0], latent, 3, 3, 3) | _middle("decoder", up[0])
    index = 0
    for stage, (inputs, outputs) in enumerate(itertools.pairwise(up)):
        # Each upsampling halves the channels, so all but the first stage begin with half of the stage before.
        for width in (inputs // 2 if stage else inputs, outputs, outputs):
            shapes |= _residual(f"decoder.upsamples.{index}", width, outputs)
            index += 1
        if stage < 3:
            shapes |= _layer(f"decoder.upsamples.{index}.resample.1", outputs // 2, outputs, 3, 3)
            if stage < 2:
                shapes |= _layer(f"decoder.upsamples.{index}.time_conv", 2 * outputs, outputs, 3, 1, 1)
            index += 1
    return shapes | _head("decoder", up[-1], 3)


def _residual(name: str, inputs: int, outputs: int) -> Shapes:
    shapes = {f"{name}.residual.0.gamma": (inputs, 1, 1, 1), f"{name}.residual.3.gamma": (outputs, 1, 1, 1)}
    shapes |= _layer(f"{name}.residual.2", outputs, inputs, 3, 3, 3)
    shapes |= _layer(f"{name}.residual.6", outputs, outputs, 3, 3, 3)
    return shapes | (_layer(f"{name}.shortcut", outputs, inputs, 1, 1, 1) if inputs != outputs else {})


def _middle(side: str, width: int) -> Shapes:
    shapes = _residual(f"{side}.middle.0", width, width) | _residual(f"{side}.middle.2", width, width)
    shapes |= {f"{side}.middle.1.norm.gamma": (width, 1, 1)}
    return (
        shapes
        | _layer(f"{side}.middle.1.to_qkv", 3 * width, width, 1, 1)
        | _layer(f"{side}.middle.1.proj", width, width, 1, 1)
    )


def _head(side: str, width: int, outputs: int) -> Shapes:
    return {f"{side}.head.0.gamma": (width, 1, 1, 1)} | _layer(f"{side}.head.2", outputs, width, 3, 3, 3)


def random_tensors(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Weights scaled so that activations stay near unit size and every tensor changes the output."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
            value = 1 + 0.1 * noise
        elif name.endswith("weight"):
            value = noise / torch.tensor(shape[1:]).prod().sqrt()
        else:
            value = 0.1 * noise
        tensors[name] = value.to(dtype)
    return tensors


def write_dit(path: Path, *, prefix: str = "", dtype: torch.dtype = torch.float32, **sizes: int) -> Path:
    tensors = random_tensors(dit_shapes(**sizes), 1, dtype)
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return path


def write_vae(path: Path, *, dtype: torch.dtype = torch.float32, **sizes: int) -> Path:
    save_file(random_tensors(vae_shapes(**sizes), 2, dtype), path)
    return path


def random_identity(slotid: SlotID, seed: int = 0) -> Identity:
    """An identity that passes as made by that model."""
    config = slotid.config
    generator = torch.Generator().manual_seed(seed)
    return Identity(
        tokens=torch.randn(2 * config.encoder.slots, config.identity_width, generator=generator),
        thumbnails=torch.zeros(1, 64, 64, 3, dtype=torch.uint8),
        coverage={},
        model_name=slotid.name,
        model_hash=slotid.hash,
        backbone=config.backbone,
        source="tiny.mp4",
        source_hash="ab" * 32,
        frames_used=(0.0,),
    )
