"""The same weights, noise, text and identity through ComfyUI's Wan and diffusers' Wan, in float32."""

import json
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.identity import Identity
from slotid_core.model import SlotID
from slotid_core.pipelines.diffusers_adapter import condition_transformer
from slotid_core.pipelines.wan import (
    decode_video,
    encode_video,
    load_wan_transformer,
    load_wan_vae,
    sample,
    seeded_noise,
)

from ..core.models import saved_model
from ..core.wan_files import random_identity, write_dit, write_vae
from .comfyui import comfyui_python, comfyui_version

PACK = Path(__file__).parents[2]
TOLERANCE = 1e-4
CONFIG = SlotIDConfig(
    Backbone("wan2.1", width=256, depth=4),
    EncoderConfig(width=32, depth=1, heads=2, slots=4, crop_size=64),
    ConditioningConfig(inner_width=32, heads=2, stride=1),
    identity_width=48,
)
ALWAYS = {"identity": True, "strength": 0.8, "start": 0.0, "end": 1.0}
SETTINGS = {
    "shift": 5.0,
    "seed": 11,
    "timestep": 637.0,
    "cases": {
        "one step": {"identity": False, "steps": 1, "cfg": 1.0},
        "one step, identity": {**ALWAYS, "steps": 1, "cfg": 1.0},
        "guided": {"identity": False, "steps": 5, "cfg": 3.0},
        "guided, identity": {**ALWAYS, "steps": 5, "cfg": 3.0},
        "guided, part": {**ALWAYS, "steps": 5, "cfg": 3.0, "start": 0.3, "end": 0.7},
        # Steps 1 and 3 of 5 lie exactly on these bounds.
        "guided, bounds on steps": {**ALWAYS, "steps": 5, "cfg": 3.0, "start": 0.2, "end": 0.6},
        "guided, moving mask": {**ALWAYS, "steps": 3, "cfg": 3.0, "mask": True},
        "guided, halves and blocks": {
            **ALWAYS, "steps": 3, "cfg": 3.0, "first_block": 1, "last_block": 2, "appearance": 0.3, "dynamics": 1.4,
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(comfyui, tmp_path_factory):
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("parity")
    # The host takes text of any width; its own is Wan's.
    write_dit(folder / "dit.safetensors", width=256, depth=4, ffn=512, text=4096)
    slotid = saved_model(folder / "slotid.safetensors", CONFIG)
    random_identity(slotid).save(folder / "identity.safetensors")
    generator = torch.Generator().manual_seed(3)
    inputs = {"noise": torch.randn(1, 16, 3, 6, 8, generator=generator)}
    inputs |= {name: torch.randn(4, 4096, generator=generator) for name in ("prompt", "negative")}
    # As many frames as no video of three latent frames has.
    inputs["mask"] = torch.rand(7, 24, 40, generator=generator).round()
    inputs["frames"] = torch.rand(9, 48, 64, 3, generator=generator)
    save_file(inputs, folder / "inputs.safetensors")
    write_vae(folder / "vae.safetensors", base=16)
    # Older hosts take a VAE of full width only.
    settings = {**SETTINGS, "vae": comfyui_version(comfyui) >= (0, 33)}
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [comfyui_python(), Path(__file__).with_name("parity_host.py"), PACK, folder]
    done = subprocess.run(command, cwd=comfyui, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    transformer = load_wan_transformer(folder / "dit.safetensors")
    slotid, identity = SlotID.load(folder / "slotid.safetensors"), Identity.load(folder / "identity.safetensors")
    inputs = load_file(folder / "inputs.safetensors")
    with torch.no_grad():
        step = torch.tensor([SETTINGS["timestep"]])
        outputs = {"forward": transformer(inputs["noise"], step, inputs["prompt"][None], return_dict=False)[0]}
    vae = load_wan_vae(folder / "vae.safetensors")
    outputs["VAE, encode"] = encode_video(vae)(inputs["frames"])
    outputs["VAE, decode"] = decode_video(vae, inputs["noise"][0])
    outputs["noise"] = seeded_noise(tuple(inputs["noise"].shape), SETTINGS["seed"])
    for name, case in SETTINGS["cases"].items():
        shift = SETTINGS["shift"]
        when = {key: value for key, value in case.items() if key not in ("identity", "steps", "cfg", "mask")}
        when["mask"] = inputs["mask"] if case.get("mask") else None
        conditioned = condition_transformer(slotid, transformer, identity, **when, shift=shift)
        with conditioned if case["identity"] else nullcontext():
            outputs[name] = sample(
                transformer,
                inputs["noise"],
                inputs["prompt"],
                inputs["negative"],
                steps=case["steps"],
                cfg=case["cfg"],
                shift=shift,
            )
    return outputs


@pytest.mark.parametrize("case", ["forward", *SETTINGS["cases"], "noise"])
def test_hosts_agree(folder, ours, case):
    agree(folder, ours, case)


@pytest.mark.parametrize("case", ["VAE, encode", "VAE, decode"])
def test_hosts_agree_on_latents_and_pixels(small_vae, folder, ours, case):
    agree(folder, ours, case)


def agree(folder, ours, case):
    theirs = load_file(folder / "host.safetensors")[case]
    assert theirs.shape == ours[case].shape
    error = difference(ours[case], theirs)
    print(f"{case}: relative error {error:.1e}")
    assert error < TOLERANCE


def test_every_case_differs_from_the_others(ours):
    guided = [ours[name] for name in ("guided", "guided, identity", "guided, part")]
    assert difference(guided[0], guided[1]) > 0.05
    assert difference(guided[0], guided[2]) > 0.01
    assert difference(guided[1], guided[2]) > 0.01
    assert difference(ours["guided, moving mask"], ours["guided, halves and blocks"]) > 0.01
    assert difference(ours["one step"], ours["one step, identity"]) > 0.05


def difference(one, other):
    """Relative L2 distance."""
    return float((one - other).norm() / other.norm())
