"""Build the demo weights that ship with the pack: a VAE, a video model and a Slot-ID model.

    python -m slotid_core.demo.weights --work runs/demo            # everything, resumable: run it again to go on
    python -m slotid_core.demo.weights --work runs/demo --seeded   # untrained files, in seconds

Stages, each with a checkpoint under the work folder: `vae` (1,000 steps of up to 25 frames), then the latents of the
training clips, `dit` (500 steps of 64 clips), `identity` (300 steps of 24 pairs). The files that ship were made with
these defaults and seed 0, stage by stage, in about an hour on one CPU core of a busy machine: a brief training that
gives heads, poses and colours, not a likeness. Needs the extra `headless` (diffusers).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__, checkpoint
from . import build_dit, build_identity, build_vae
from .files import demo_files
from .latent_cache import cached_latents
from .wan_vae import WanVAE

LICENSE = "Apache-2.0"
WORLD = "the procedural demo world of ComfyUI-SlotID; it shows the mechanism and is no model of people"


def build(work: Path, seed: int, vae_steps: int, dit_steps: int, identity_steps: int) -> None:
    """Train all three models and write them into the packaged assets."""
    vae = build_vae.train_vae(work, seed, vae_steps)
    write_vae(vae, seed, vae_steps)
    targets = cached_latents("target", vae, build_dit.PEOPLE, work)
    transformer = build_dit.train_dit(targets, work, seed, dit_steps)
    write_dit(transformer.state_dict(), seed, dit_steps)
    references = cached_latents("reference", vae, build_identity.PEOPLE, work)
    model = build_identity.train_identity(transformer, targets, references, work, seed, identity_steps)
    write_identity(model, seed, identity_steps)


def write_seeded(seed: int) -> None:
    """Write untrained files of the final names, sizes and layouts."""
    torch.manual_seed(seed)
    write_vae(WanVAE(build_vae.WIDTH), seed, 0)
    transformer, model = build_dit.new_transformer(seed), build_identity.new_slotid(seed)
    # Layers that training starts from zero; with them at zero nothing downstream could be told apart.
    for layer in (transformer.proj_out, *(block.out for block in model.conditioning.blocks.values())):
        torch.nn.init.normal_(layer.weight, std=0.05)
    write_dit(transformer.state_dict(), seed, 0)
    write_identity(model, seed, 0)


def write_vae(vae: WanVAE, seed: int, steps: int) -> None:
    """The VAE in Wan's own names, float16."""
    checkpoint.write(demo_files().vae, _half(vae.state_dict()), _metadata("VAE in the Wan 2.1 layout", seed, steps))


def write_dit(tensors: dict[str, Tensor], seed: int, steps: int) -> None:
    """The video model in Wan's own names, float16."""
    metadata = _metadata("video model in the Wan 2.1 text-to-video layout", seed, steps)
    checkpoint.write(demo_files().diffusion_model, _half(build_dit.original_names(tensors)), metadata)


def write_identity(model: build_identity.SlotID, seed: int, steps: int) -> None:
    """The Slot-ID model, float16."""
    words = _metadata("Slot-ID model", seed, steps)
    model.save(demo_files().slot_id, trained_on=words["trained_on"], license=LICENSE, dtype=torch.float16)


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.half() for name, tensor in tensors.items()}


def _metadata(what: str, seed: int, steps: int) -> dict[str, str]:
    state = f"briefly trained, seed {seed}, {steps} steps" if steps else f"not trained, seed {seed}"
    return {
        "title": f"Slot-ID demo {what}",
        "trained_on": f"{WORLD}; demo weights, {state}",
        "seed": str(seed),
        "steps": str(steps),
        "version": __version__,
        "license": LICENSE,
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m slotid_core.demo.weights", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and cached latents")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default %(default)s)")
    parser.add_argument("--vae-steps", type=int, default=build_vae.PLAN.steps, help="default %(default)s")
    parser.add_argument("--dit-steps", type=int, default=build_dit.PLAN.steps, help="default %(default)s")
    parser.add_argument("--identity-steps", type=int, default=build_identity.PLAN.steps, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--seeded", action="store_true", help="write untrained files and stop")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.seeded:
        write_seeded(options.seed)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    build(options.work, options.seed, options.vae_steps, options.dit_steps, options.identity_steps)


if __name__ == "__main__":
    main()
