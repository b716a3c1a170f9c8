"""One server per test run, with small random weights of the tests' own; skipped where there is no ComfyUI."""

from __future__ import annotations

import pytest
import torch

from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.demo.files import demo_files
from slotid_core.faces import prepare_faces
from slotid_core.model import SlotID
from slotid_core.video import load_video

from ..core.models import fake_vae, saved_model
from ..core.wan_files import write_dit
from .comfyui import Server, comfyui_path, comfyui_version

CONFIG = SlotIDConfig(
    Backbone("wan2.1", width=256, depth=3),
    EncoderConfig(width=32, depth=1, heads=2, slots=4, crop_size=64),
    ConditioningConfig(inner_width=32, heads=2, stride=1),
    identity_width=48,
)


@pytest.fixture(scope="session")
def comfyui():
    path = comfyui_path()
    if path is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH (and COMFYUI_PYTHON), or install the pack in one")
    return path


@pytest.fixture(scope="session")
def small_vae(comfyui):
    """Skips where the stock VAE loader takes only full-width Wan VAEs."""
    if comfyui_version(comfyui) < (0, 33):
        pytest.skip("this ComfyUI's VAE loader does not take the demo's small VAE (0.33.0 does)")


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    """A running ComfyUI with test_dit, narrow_dit, slot_id/test and the identities one and two of two sample clips."""
    base = tmp_path_factory.mktemp("comfyui") / "base"
    diffusion_models = base / "models" / "diffusion_models"
    identities = base / "models" / "slot_id" / "identities"
    for folder in (diffusion_models, identities):
        folder.mkdir(parents=True)
    write_dit(diffusion_models / "test_dit.safetensors", width=256, depth=3, ffn=512, text=4096)
    write_dit(diffusion_models / "narrow_dit.safetensors", width=128, depth=2, ffn=64, text=4096)
    model = saved_model(identities.parent / "test.safetensors", CONFIG)
    for name, clip in zip(("one", "two"), demo_files().clips, strict=False):
        read_identity(model, clip).save(identities / f"{name}.safetensors")
    server = Server(comfyui, base)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()


def read_identity(model: SlotID, clip):
    """An identity made without ComfyUI, through a VAE in shape only."""
    with torch.no_grad():
        return model.encode(prepare_faces(load_video(clip), detector="whole_frame"), fake_vae)
