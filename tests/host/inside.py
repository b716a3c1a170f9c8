"""What the probes share: a real ComfyUI, the pack in it, and sampling runs that note what the model was asked.

Imported by a probe that runs with the host's own Python: PROBE.py COMFYUI PACK DIT SLOTID OUT.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

COMFYUI, PACK, DIT, SLOTID, OUT = (Path(argument) for argument in sys.argv[1:6])
sys.path.insert(0, str(COMFYUI))
sys.argv = ["probe", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.ldm.wan.model  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy.patcher_extension import WrappersMP  # noqa: E402

STEPS = 4


def load_pack():
    spec = importlib.util.spec_from_file_location(
        "slotid_pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["slotid_pack"] = module
    spec.loader.exec_module(module)
    return {
        name: importlib.import_module(f"slotid_pack.{name}")
        for name in (
            "nodes.wan_patch",
            "nodes.guider_node",
            "nodes.host_model",
            "slotid_core.influence",
            "slotid_core.identity",
            "slotid_core.errors",
            "slotid_core.model",
        )
    }


pack = load_pack()
apply_identity = pack["nodes.wan_patch"].apply_identity
Influence = pack["slotid_core.influence"].Influence
SlotIDError = pack["slotid_core.errors"].SlotIDError


def identity(slotid, seed: int):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2 * slotid.model.config.encoder.slots, slotid.model.config.identity_width, generator=generator)
    return pack["slotid_core.identity"].Identity(
        tokens=tokens,
        thumbnails=torch.zeros(1, 64, 64, 3, dtype=torch.uint8),
        coverage={},
        model_name=slotid.model.name,
        model_hash=slotid.model.hash,
        backbone=slotid.model.config.backbone,
        source="",
        source_hash="",
        frames_used=(0.0,),
    )


def prompt(seed: int, length: int = 4):
    return [[torch.randn(1, length, 4096, generator=torch.Generator().manual_seed(seed)), {}]]


class Run:
    """One sampling run, with what the model made of each conditioning in each step.

    Args:
        guide: (model, positive, negative, cfg) to a guider; None is the stock KSampler's.
    """

    def __init__(self, model, *, cfg=3.0, batch=1, size=(3, 4, 4), negative_length=4, positive=None, guide=None):
        self.cond, self.uncond, self.chunks = [], [], []
        model = model.clone()

        def watch(args):
            self.cond.append(args["cond_denoised"].clone())
            self.uncond.append(args["uncond_denoised"].clone() if args["uncond_denoised"] is not None else None)
            return args["denoised"]

        def note_chunks(executor, *args, **kwargs):
            options = next(a for a in [*args, kwargs.get("transformer_options")] if isinstance(a, dict))
            self.chunks.append(options["cond_or_uncond"])
            return executor(*args, **kwargs)

        model.set_model_sampler_post_cfg_function(watch)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", note_chunks)
        channels = model.model.latent_format.latent_channels
        noise = torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))
        asked, empty = (positive or prompt(2), prompt(3, negative_length)), torch.zeros_like(noise)
        if guide is None:
            self.latents = comfy.sample.sample(model, noise, STEPS, cfg, "euler", "simple", *asked, empty)
            return
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        guider = guide(model, *asked, cfg)
        self.latents = guider.sample(noise, empty, comfy.samplers.sampler_object("euler"), sigmas, seed=0)

    def same_steps(self, other: Run) -> list[bool]:
        """Whether cond was bit-identical, per step (meaningful while the noise going in is the same)."""
        return [torch.equal(a, b) for a, b in zip(self.cond, other.cond, strict=True)]


def same(a: Run, b: Run) -> bool:
    return torch.equal(a.latents, b.latents) and bool(torch.isfinite(a.latents).all())


def refusal(call) -> str:
    try:
        call()
    except SlotIDError as error:
        return str(error)
    return ""


def context_windows(model, schedule="standard_static", closed_loop=False):
    """Windows of 4 latent frames that overlap by 2."""
    import inspect

    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode as Windows

    words = {"freenoise": False} if "freenoise" in inspect.signature(Windows.execute).parameters else {}
    made = Windows.execute(model, 13, 8, schedule, 1, closed_loop, "pyramid", **words)
    return getattr(made, "args", [made])[0]


def width_windows(model):
    """Windows of 4 latent columns that overlap by 2: a wide picture in parts."""
    import inspect

    from comfy_extras.nodes_context_windows import ContextWindowsManualNode as Windows

    known = inspect.signature(Windows.execute).parameters
    words = {name: False for name in ("freenoise", "causal_window_fix") if name in known}
    made = Windows.execute(model, 4, 2, "standard_static", 1, False, "pyramid", 4, **words)
    return getattr(made, "args", [made])[0]


def compiled(model):
    """Traced whole by dynamo and run as it is: what matters here is that tracing keeps the identity."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = model.clone()
    set_torch_compile_wrapper(model, backend="eager")
    return model
