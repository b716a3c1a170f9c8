"""Runs inside a real ComfyUI: long videos of people, whole and in context windows, and in windows without people.

Not a test itself: `test_windows.py` gives it noise, prompts and identities, and judges the latents.

    python probe_windows.py COMFYUI PACK DIT SLOTID OUT
"""

from __future__ import annotations

import inspect
import json

from inside import DIT, OUT, SLOTID, Influence, apply_identity, comfy, pack, torch
from safetensors.torch import load_file, save_file

SETTINGS = json.loads(OUT.with_name("settings.json").read_text())


def windowed(model):
    """The host's own node, set as in the packaged graph; older hosts know fewer of its inputs."""
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode as Windows

    known = inspect.signature(Windows.execute).parameters
    made = Windows.execute(model, **{name: value for name, value in SETTINGS["windows"].items() if name in known})
    return getattr(made, "args", [made])[0]


def sample(model, noise, text, empty):
    """Latents [N, 16, F, h, w] in the model's space, one by one: the host's windows cut a batch's time steps too."""
    made = [
        comfy.sample.sample(
            model, one[None], SETTINGS["steps"], SETTINGS["cfg"], SETTINGS["sampler_name"], SETTINGS["scheduler"],
            [[asked[None], {}]], [[empty, {}]], torch.zeros_like(one[None]), disable_pbar=True, seed=SETTINGS["seed"],
        )
        for one, asked in zip(noise, text, strict=True)
    ]  # fmt: skip
    return model.model.latent_format.process_in(torch.cat(made).float().cpu())


def main() -> dict[str, torch.Tensor]:
    inputs = load_file(OUT.with_name("inputs.safetensors"))
    model = comfy.sd.load_diffusion_model(str(DIT))
    slotid = pack["nodes.host_model"].HostModel(SLOTID)
    made: dict[str, list[torch.Tensor]] = {"whole": [], "windows": [], "unpatched": []}
    for number, (noise, text) in enumerate(zip(inputs["noise"], inputs["text"], strict=True)):
        identity = pack["slotid_core.identity"].Identity.load(OUT.with_name(f"identity{number}.safetensors"))
        patched, _ = apply_identity(model, slotid, identity, Influence())
        models = {"whole": patched, "windows": windowed(patched), "unpatched": windowed(model)}
        for name, one in models.items():
            made[name].append(sample(one, noise, text, inputs["empty"]))
    return {name: torch.stack(latents).contiguous() for name, latents in made.items()}


with torch.inference_mode():
    save_file(main(), OUT)
