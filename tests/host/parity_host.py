"""The host's half of the parity test, run by ComfyUI's own Python: python parity_host.py PACK FOLDER (cwd: ComfyUI)."""

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path

pack, folder = Path(sys.argv[1]), Path(sys.argv[2])
# In place of this script's folder, whose comfy.py would hide the host's.
sys.path[0] = os.getcwd()
sys.argv = ["main.py", "--cpu", "--force-fp32", "--fp32-vae"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

spec = importlib.util.spec_from_file_location(
    "slotid_pack", pack / "__init__.py", submodule_search_locations=[str(pack)]
)
sys.modules["slotid_pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
host_model = importlib.import_module("slotid_pack.nodes.host_model")
hosts = importlib.import_module("slotid_pack.nodes.host")
wan_patch = importlib.import_module("slotid_pack.nodes.wan_patch")
influence = importlib.import_module("slotid_pack.slotid_core.influence")
identities = importlib.import_module("slotid_pack.slotid_core.identity")

INFLUENCE = set(influence.Influence.__dataclass_fields__)
inputs = load_file(folder / "inputs.safetensors")
settings = json.loads((folder / "settings.json").read_text())
model = comfy.sd.load_diffusion_model(str(folder / "dit.safetensors"))
slotid = host_model.HostModel(folder / "slotid.safetensors")
identity = identities.Identity.load(folder / "identity.safetensors")
shifted = model.clone()
sampling = type(model.get_model_object("model_sampling"))(model.model.model_config)
sampling.set_parameters(shift=settings["shift"], multiplier=1000)
shifted.add_object_patch("model_sampling", sampling)


def sample(model, steps, cfg):
    noise = inputs["noise"]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    positive, negative = ([[inputs[name][None], {}]] for name in ("prompt", "negative"))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    latents = guider.sample(
        noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=0
    )
    return model.model.latent_format.process_in(latents.float().cpu())


with torch.no_grad():
    comfy.model_management.load_models_gpu([model])
    outputs = {
        "forward": model.model.diffusion_model(
            inputs["noise"], torch.tensor([settings["timestep"]]), context=inputs["prompt"][None]
        ).float()
    }
for name, case in settings["cases"].items():
    patched = shifted
    if case["identity"]:
        how = influence.Influence(**{name: case[name] for name in case.keys() & INFLUENCE})
        mask = inputs["mask"] if case.get("mask") else None
        patched, _ = wan_patch.apply_identity(shifted, slotid, identity, how, mask)
    outputs[name] = sample(patched, case["steps"], case["cfg"])
outputs["noise"] = comfy.sample.prepare_noise(torch.zeros_like(inputs["noise"]), settings["seed"])
if settings["vae"]:
    vae = comfy.sd.VAE(sd=load_file(folder / "vae.safetensors"))
    frames = inputs["frames"]
    outputs["VAE, encode"] = hosts.video_encoder(vae, 16)(frames)
    latents = model.model.latent_format.process_out(inputs["noise"])
    outputs["VAE, decode"] = vae.decode(latents)[0]
save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, folder / "host.safetensors")
