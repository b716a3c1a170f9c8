"""Build the demo weights that ship with the pack: a VAE, a video model and a Slot-ID model.

    python -m slotid_core.demo.weights --work runs/demo            # everything, resumable: run it again to go on
    python -m slotid_core.demo.weights --work runs/demo --seeded   # untrained files, in seconds

The stages are those of the configs demo_vae, demo_backbone and demo_identity (`slotid train demo_vae` and so on runs
one alone), each in a folder of its own under the work folder; the clips are rendered and encoded in between. What each
stage makes is then written into the package. docs/training.md tells what it costs. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch

from .. import __version__, checkpoint
from ..config import Backbone
from ..model import SlotID
from ..training.cache import fill
from ..training.config import Experiment
from ..training.identity import model_config
from ..training.loop import train
from ..training.tasks import load_experiment, make_task
from .backbone import new_transformer, original_names
from .files import demo_files
from .wan_vae import WanVAE

LICENSE = "Apache-2.0"
WORLD = "the procedural demo world of ComfyUI-SlotID; it shows the mechanism and is no model of people"
STAGES = ("demo_vae", "demo_backbone", "demo_identity")


def build(work: Path, changes: Mapping[str, Sequence[str]]) -> None:
    """Train all three models and write them into the packaged assets.

    Args:
        changes: stage -> changes of its config, as `slotid train --set` has them.
    """
    files = demo_files()
    store = [f"data.store={work / 'store'}"]
    vae = _train("demo_vae", work, changes.get("demo_vae", ()))
    _ship(vae, files.vae)
    backbone = _train("demo_backbone", work, [*store, *changes.get("demo_backbone", ())])
    _ship(backbone, files.diffusion_model)
    made = _train("demo_identity", work, [*store, *changes.get("demo_identity", ())])
    _ship(made, files.slot_id)


def write_seeded(seed: int) -> None:
    """Write untrained files of the final names, sizes and layouts."""
    files, words = demo_files(), f"{WORLD}; demo weights, not trained, seed {seed}"
    torch.manual_seed(seed)
    vae, sizes = WanVAE(load_experiment("demo_vae").vae.width), load_experiment("demo_backbone").backbone
    transformer = new_transformer(sizes, seed)
    identity = load_experiment("demo_identity")
    backbone = Backbone(identity.backbone.family, sizes.width, sizes.depth)
    model = SlotID(model_config(identity.model, backbone))
    # Layers that training starts from zero; with them at zero nothing downstream could be told apart.
    for layer in (transformer.proj_out, *(block.out for block in model.conditioning.blocks.values())):
        torch.nn.init.normal_(layer.weight, std=0.05)
    metadata = {"trained_on": words, "license": LICENSE, "version": __version__}
    for path, tensors in (
        (files.vae, vae.state_dict()),
        (files.diffusion_model, original_names(transformer.state_dict())),
    ):
        checkpoint.write(path, {name: tensor.half() for name, tensor in tensors.items()}, metadata)
    model.save(files.slot_id, trained_on=words, license=LICENSE, dtype=torch.float16)


def _train(stage: str, work: Path, changes: Sequence[str]) -> Path:
    config: Experiment = load_experiment(stage, changes)
    if hasattr(config, "data"):
        print(fill(config.data))
    return train(make_task(config), config, work / stage)


def _ship(made: Path, target: Path) -> None:
    """The same file in float16."""
    tensors = safetensors.torch.load_file(made)
    checkpoint.write(target, {n: t.half() for n, t in tensors.items()}, checkpoint.read_header(made).metadata)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m slotid_core.demo.weights", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and cached clips")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--seeded", action="store_true", help="write untrained files and stop")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.seeded:
        write_seeded(options.seed)
        return
    build(options.work, {stage: [f"run.seed={options.seed}"] for stage in STAGES})


if __name__ == "__main__":
    main()
