"""Wan in diffusers: the files ComfyUI's stock loaders take, latents in and out, and plain Euler sampling.

Files carry the original Wan names (`blocks.0.self_attn.q.weight`, `decoder.middle.0.residual.0.gamma`), as published by
Wan and repackaged for ComfyUI. What a file is follows from its tensors' names and shapes, never from its own name.
"""

from __future__ import annotations

import os
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from ..errors import SlotIDError
from ..guidance import IDENTITY, NEGATIVE, TEXT, answers, towards_identity
from ..latents import EncodeVideo
from ..video import Progress
from . import require_diffusers
from .weights import Shapes, WeightsFile, fill

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

HEAD_WIDTH = 128  # of every published Wan; the one number of the format that no tensor shows
# Names of the transformer's calls; WanPipeline tells the two halves of guidance apart by the first and the last.
CALLS = {IDENTITY: "cond", TEXT: "without identity", NEGATIVE: "uncond"}
TIME_SCALE = 1000.0  # Wan's timestep is a thousand times its flow time
DIT_PREFIX = "model.diffusion_model."
TRANSFORMER = "a Wan 2.1 or 2.2 text-to-video diffusion model with the original Wan tensor names"
VAE = "a VAE in the Wan 2.1 layout (16 latent channels) with the original Wan tensor names"

# A tensor that only this variant of Wan has -> the variant, so that a refusal can say what the file is.
VARIANTS = {
    "vace_patch_embedding.weight": "Wan VACE",
    "control_adapter.conv.weight": "Wan camera control",
    "casual_audio_encoder.encoder.final_linear.weight": "Wan speech-to-video",
    "face_adapter.fuser_blocks.0.k_norm.weight": "Wan Animate",
    "img_emb.proj.0.bias": "Wan image-to-video",
}


def transformer_config(shapes: Shapes) -> dict[str, Any] | None:
    """diffusers' configuration of the Wan diffusion model with these tensors; None if it is no Wan diffusion model."""
    needed = ("patch_embedding.weight", "text_embedding.0.weight", "time_embedding.0.weight", "blocks.0.ffn.0.weight")
    if any(len(shapes.get(name, ())) < 2 or 0 in shapes[name] for name in (*needed, "head.head.weight")):
        return None
    width, channels, *patch = shapes["patch_embedding.weight"]
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": width // HEAD_WIDTH,
        "attention_head_dim": HEAD_WIDTH,
        "in_channels": channels,
        "out_channels": shapes["head.head.weight"][0] // prod(patch),
        "text_dim": shapes["text_embedding.0.weight"][1],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "num_layers": len(blocks),
        "cross_attn_norm": "blocks.0.norm3.weight" in shapes,
    }


def vae_config(shapes: Shapes) -> dict[str, Any] | None:
    """diffusers' configuration of the Wan 2.1 VAE with these tensors; None if it is no Wan VAE."""
    needed = ("encoder.conv1.weight", "decoder.head.0.gamma", "decoder.head.2.weight", "conv2.weight")
    if not all(shapes.get(name) for name in (*needed, "decoder.middle.0.residual.0.gamma")):
        return None
    return {
        "base_dim": shapes["encoder.conv1.weight"][0],
        "decoder_base_dim": shapes["decoder.head.0.gamma"][0],
        "z_dim": shapes["conv2.weight"][0],
        "in_channels": shapes["encoder.conv1.weight"][1],
        "out_channels": shapes["decoder.head.2.weight"][0],
    }


def load_wan_transformer(
    path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> WanTransformer3DModel:
    """A Wan text-to-video diffusion model of any width and depth, frozen and in eval mode.

    Args:
        path: safetensors with the original Wan names, with or without `model.diffusion_model.` in front, in float16,
            bfloat16 or float32.
        dtype: type of the weights in memory. What diffusers keeps in float32 (norms, time embedding) stays in float32.

    Raises:
        SlotIDError: another file, another kind of model, or a tensor missing, unknown or of the wrong shape.
    """
    require_diffusers()
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    weights = WeightsFile(path, prefix=DIT_PREFIX)
    variant = next((kind for name, kind in VARIANTS.items() if name in weights.shapes), None)
    if variant:
        raise weights.refuse(
            f"this is a {variant} model", TRANSFORMER, "choose the text-to-video file, or use ComfyUI."
        )
    config = transformer_config(weights.shapes)
    if config is None:
        raise weights.refuse(describe_tensors(weights.shapes), TRANSFORMER, "choose a Wan diffusion model file.")
    width = weights.shapes["patch_embedding.weight"][0]
    if width % HEAD_WIDTH or len(config["patch_size"]) != 3:
        raise weights.refuse(
            f"the patch embedding has shape {list(weights.shapes['patch_embedding.weight'])}",
            f"{TRANSFORMER}: a width of {HEAD_WIDTH} x heads and a patch of three sides",
            "use the model's own file, unmodified.",
        )
    if config["in_channels"] != config["out_channels"]:
        raise weights.refuse(
            f"the model takes {config['in_channels']} channels and gives {config['out_channels']} (image-to-video)",
            TRANSFORMER,
            "choose the text-to-video file, or use ComfyUI.",
        )
    with init_empty_weights():
        transformer = WanTransformer3DModel(**config)
    kept = set(WanTransformer3DModel._keep_in_fp32_modules)
    fill(
        transformer,
        weights,
        convert_wan_transformer_to_diffusers,
        lambda name: torch.float32 if kept.intersection(name.split(".")) else dtype,
        expected=TRANSFORMER,
    )
    return transformer.requires_grad_(False).eval().to(device)


def load_wan_vae(
    path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> AutoencoderKLWan:
    """A VAE in the Wan 2.1 layout, of any base width, frozen and in eval mode.

    Raises:
        SlotIDError: another file, another kind of VAE, or a tensor missing, unknown or of the wrong shape.
    """
    require_diffusers()
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    weights = WeightsFile(path)
    config = vae_config(weights.shapes)
    if config is None:
        raise weights.refuse(describe_tensors(weights.shapes), VAE, "choose a Wan VAE file (wan_2.1_vae.safetensors).")
    if config["z_dim"] != 16 or config["in_channels"] != 3 or config["out_channels"] != 3:
        raise weights.refuse(
            f"the VAE has {config['z_dim']} latent channels, {config['in_channels']} image channels in and "
            f"{config['out_channels']} out",
            VAE,
            "use wan_2.1_vae.safetensors; the VAE of Wan 2.2 5B and VAEs with alpha run in ComfyUI only.",
        )
    with init_empty_weights():
        vae = AutoencoderKLWan(**config)
    fill(vae, weights, convert_wan_vae_to_diffusers, lambda name: dtype, expected=VAE)
    return vae.requires_grad_(False).eval().to(device)


def describe_tensors(shapes: Shapes) -> str:
    """In words: what a safetensors file with these tensors is."""
    if transformer_config(shapes):
        return "a Wan diffusion model"
    if vae_config(shapes):
        return "a Wan VAE"
    names = sorted(shapes)
    return f"{len(names)} tensors of an unknown model ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def encode_video(vae: AutoencoderKLWan) -> EncodeVideo:
    """The VAE as the core's EncodeVideo: frames [T,H,W,3] in [0,1] to normalised latents [C,F,h,w].

    The posterior's mode, so that one clip always gives one identity. float32 on the frames' own device.
    """

    @torch.no_grad()
    def encode(frames: torch.Tensor) -> torch.Tensor:
        pixels = frames.permute(3, 0, 1, 2)[None] * 2 - 1
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float()
        mean, std = _statistics(vae, latents)
        return ((latents - mean) / std)[0].to(frames.device)

    return encode


@torch.no_grad()
def decode_video(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Latents [C,F,h,w] in the model's normalised space to frames [T,H,W,3] in [0,1], T = 4 (F - 1) + 1, on the CPU."""
    latents = latents[None].to(vae.device, torch.float32)
    mean, std = _statistics(vae, latents)
    pixels = vae.decode((latents * std + mean).to(vae.dtype)).sample[0]
    return (pixels.float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).cpu()


def _statistics(vae: AutoencoderKLWan, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (1, -1, 1, 1, 1)
    return like.new_tensor(vae.config.latents_mean).view(shape), like.new_tensor(vae.config.latents_std).view(shape)


def flow_times(steps: int, shift: float) -> list[float]:
    """The flow times from 1 to 0 of `steps` steps: [steps + 1], as ComfyUI's scheduler `simple` has them.

    Before the shift they lie on a grid of thousandths, as there.
    """
    grid = [1 - int(step * 1000 / steps) / 1000 for step in range(steps)]
    return [shift * time / (1 + (shift - 1) * time) for time in grid] + [0.0]


@torch.no_grad()
def sample(
    transformer: WanTransformer3DModel,
    noise: torch.Tensor,
    prompt_embeds: torch.Tensor,
    negative_embeds: torch.Tensor | None,
    *,
    steps: int = 20,
    cfg: float = 5.0,
    identity_cfg: float = 1.0,
    shift: float = 8.0,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Noise to latents, both [B,C,F,h,w] in the model's normalised space, by flow-matching Euler steps.

    Args:
        prompt_embeds, negative_embeds: text, [L, text width] or [B, L, text width]; at `cfg` 1 the negative is unused.
        identity_cfg: guidance by the identity, see `slotid_core.guidance`; without an identity it changes nothing.
        shift: of the flow time. Published values: 3 for 480p, 5 for 720p (Wan's own), 8 (ComfyUI's default).
        progress: called with (steps done, steps) after each.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    unshifted = flow_times(steps, 1.0)[:-1]
    scheduler.set_timesteps(sigmas=unshifted, device=transformer.device)
    latents = noise.to(transformer.device, torch.float32)
    prompt = _batched(prompt_embeds, latents)
    texts = dict.fromkeys(answers(cfg, identity_cfg), prompt)
    if NEGATIVE in texts:
        texts[NEGATIVE] = _batched(negative_embeds, latents)
    for step, time in enumerate(scheduler.timesteps):
        velocity = {}
        for name, text in texts.items():
            with transformer.cache_context(CALLS[name]):
                velocity[name] = transformer(
                    hidden_states=latents.to(transformer.dtype),
                    timestep=time.expand(len(latents)),
                    encoder_hidden_states=text.to(transformer.device, transformer.dtype),
                    return_dict=False,
                )[0].float()
        guided = velocity.get(IDENTITY, velocity.get(TEXT))
        if IDENTITY in velocity and TEXT in velocity:
            guided = towards_identity(velocity[IDENTITY], velocity[TEXT], identity_cfg)
        if NEGATIVE in velocity:
            guided = velocity[NEGATIVE] + cfg * (guided - velocity[NEGATIVE])
        latents = scheduler.step(guided, time, latents, return_dict=False)[0]
        if progress is not None:
            progress(step + 1, steps)
    return latents


def generate(
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    prompt_embeds: torch.Tensor,
    negative_embeds: torch.Tensor | None = None,
    *,
    frames: int = 81,
    size: tuple[int, int] = (480, 832),
    steps: int = 20,
    cfg: float = 5.0,
    identity_cfg: float = 1.0,
    shift: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> torch.Tensor:
    """One video: frames [T,H,W,3] in [0,1] on the CPU.

    Noise and steps are those of ComfyUI's KSampler (sampler `euler`, scheduler `simple`) with the same settings.
    Inside `SlotID.condition` the video carries the identity.

    Args:
        frames: number of frames, 4k + 1.
        size: (height, width) in pixels, multiples of 16.
        negative_embeds: needed when `cfg` is not 1.
        identity_cfg: guidance by the identity in units of cfg, see `slotid_core.guidance`.

    Raises:
        SlotIDError: a setting or an embedding that this model cannot use.
    """
    _check_settings(transformer, vae, prompt_embeds, negative_embeds, frames, size, steps, cfg, shift)
    shape = (1, vae.config.z_dim, (frames - 1) // 4 + 1, size[0] // 8, size[1] // 8)
    noise = seeded_noise(shape, seed)
    how = {"steps": steps, "cfg": cfg, "identity_cfg": identity_cfg, "shift": shift}
    latents = sample(transformer, noise, prompt_embeds, negative_embeds, **how, progress=progress)
    return decode_video(vae, latents[0])


def seeded_noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The noise [B,C,F,h,w] that ComfyUI draws for this seed: always on the CPU, so every device gets the same."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


def _batched(text: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    text = text if text.dim() == 3 else text[None]
    return text.expand(len(latents), -1, -1)


def _check_settings(
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    prompt_embeds: torch.Tensor,
    negative_embeds: torch.Tensor | None,
    frames: int,
    size: tuple[int, int],
    steps: int,
    cfg: float,
    shift: float,
) -> None:
    side = 8 * transformer.config.patch_size[-1]
    checks = [
        (frames >= 1 and frames % 4 == 1, f"frames = {frames}", "4k + 1 frames: 1, 5, 9, ... 81"),
        (
            all(length > 0 and length % side == 0 for length in size),
            f"a size of {size[1]} x {size[0]} pixels (width x height)",
            f"a width and a height that are multiples of {side}",
        ),
        (1 <= steps <= 1000, f"steps = {steps}", "1 to 1000 steps"),
        (shift > 0, f"shift = {shift}", "a shift above 0"),
        (
            transformer.config.in_channels == vae.config.z_dim,
            f"a diffusion model of {transformer.config.in_channels} latent channels and a VAE of {vae.config.z_dim}",
            "a diffusion model and a VAE of one family",
        ),
        (cfg == 1.0 or negative_embeds is not None, f"cfg = {cfg} without a negative embedding", "one, or cfg = 1"),
    ]
    width = transformer.config.text_dim
    for name, text in (("prompt", prompt_embeds), ("negative", negative_embeds)):
        if text is not None:
            fits = text.dim() in (2, 3) and text.shape[-1] == width and (text.dim() == 2 or text.shape[0] == 1)
            checks.append((fits, f"a {name} embedding of shape {list(text.shape)}", f"[L, {width}] or [1, L, {width}]"))
    for fine, found, expected in checks:
        if not fine:
            raise SlotIDError(found, expected, "change the setting.")
