"""Small models and clips that several tests share."""

from fractions import Fraction

import torch

from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.faces import prepare_faces
from slotid_core.model import SlotID
from slotid_core.video import Clip

TINY = SlotIDConfig(
    Backbone("wan2.1", width=32, depth=4),
    EncoderConfig(width=32, depth=1, heads=2, slots=4, crop_size=64),
    ConditioningConfig(inner_width=16, heads=2, stride=2),
    identity_width=24,
)


def tiny_model(config=TINY, seed=0):
    """A model whose every weight is random, W_o included: a fresh one changes nothing."""
    torch.manual_seed(seed)
    model = SlotID(config)
    with torch.no_grad():
        for block in model.conditioning.blocks.values():
            block.out.weight.normal_(std=0.2)
        model.conditioning.gates.out.weight.normal_(std=0.5)
    return model


def saved_model(path, config=TINY, seed=0):
    tiny_model(config, seed).save(path, trained_on="nothing (tests)", license="Apache-2.0")
    return SlotID.load(path)


def tiny_clip(frames=9, seed=0):
    pixels = torch.rand(frames, 64, 64, 3, generator=torch.Generator().manual_seed(seed))
    times = torch.arange(frames, dtype=torch.float64) / 16
    return Clip(pixels, times, Fraction(16), source="tiny.mp4", sha256="ab" * 32)


def tiny_faces(frames=9, seed=0):
    return prepare_faces(tiny_clip(frames, seed), detector="whole_frame", size=64)


def fake_vae(frames):
    """A VAE in shape only: [T, H, W, 3] to [16, (T - 1) / 4 + 1, H / 8, W / 8], different for different frames."""
    pooled = torch.nn.functional.avg_pool2d(frames.movedim(-1, 1), 8)
    weights = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
    return torch.einsum("ck,tkhw->cthw", weights, pooled)[:, ::4] * 4
