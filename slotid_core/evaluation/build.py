"""Build the judges that ship with the pack: the probe and the frame embedding.

    python -m slotid_core.evaluation.build --work runs/judges      # resumable: run it again to go on

Both learn from renders of training people alone, made first and kept in the work folder (3 GB). The files that ship
were made with these defaults and seed 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from .. import __version__, checkpoint
from . import build_embedding, build_probe
from .accuracy import HELD_OUT, embedding_accuracy, probe_accuracy
from .probe import EMBEDDING_FILE, PROBE_FILE, Probe
from .renders import cached, probe_part, to_network

LICENSE = "Apache-2.0"
_AXES_FROM = 1024


def build_probe_file(work: Path, seed: int, steps: int, finish: int, clips: int) -> None:
    """Train the probe, measure it on held-out people and write it into the packaged assets."""
    probe = Probe()
    probe.net = build_probe.train_probe(work, seed, steps, finish, clips)
    frames = cached("probe", probe_part, min(clips, _AXES_FROM), work, build_probe.PART)["frames"]
    probe.fit_axes(to_network(frames))
    says = f"{clips} rendered clips, {steps} + {finish} steps of {build_probe.BATCH}"
    _write(PROBE_FILE, probe, "slot-id-probe", says, seed, probe_accuracy(_rounded(probe), list(HELD_OUT)))


def build_embedding_file(work: Path, seed: int, steps: int, people: int) -> None:
    """Train the embedding, measure it on held-out people and write it into the packaged assets."""
    net = build_embedding.train_embedding(work, seed, steps, people)
    batch = f"{build_embedding.BATCH_FRAMES} frames of {build_embedding.BATCH_PEOPLE} people"
    says = f"10 rendered frames of each of {people} people, {steps} steps of {batch}"
    _write(EMBEDDING_FILE, net, "slot-id-embedding", says, seed, embedding_accuracy(_rounded(net), list(HELD_OUT)))


def _rounded(net: nn.Module) -> nn.Module:
    """The module with the weights as the file holds them."""
    return net.half().float().eval()


def _write(path: Path, net: nn.Module, format: str, says: str, seed: int, accuracy: dict[str, float]) -> None:
    metadata = {
        "format": format,
        "trained_on": f"the procedural demo world of ComfyUI-SlotID, training people only: {says}, seed {seed}",
        "accuracy": json.dumps({name: round(value, 4) for name, value in accuracy.items()}),
        "accuracy_on": f"renders of {len(HELD_OUT)} people from validation seed {HELD_OUT.start} on",
        "seed": str(seed),
        "version": __version__,
        "license": LICENSE,
    }
    checkpoint.write(path, {name: tensor.half() for name, tensor in net.state_dict().items()}, metadata)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m slotid_core.evaluation.build",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    probe, embedding = build_probe, build_embedding
    parser.add_argument("--work", type=Path, required=True, help="folder for renders and checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default %(default)s)")
    parser.add_argument("--only", choices=("probe", "embedding"), help="build one of the two")
    parser.add_argument("--probe-steps", type=int, default=probe.PLAN.steps, help="default %(default)s")
    parser.add_argument("--finish-steps", type=int, default=probe.FINISH.steps, help="default %(default)s")
    parser.add_argument("--clips", type=int, default=probe.CLIPS, help="for the probe (default %(default)s)")
    parser.add_argument("--embedding-steps", type=int, default=embedding.PLAN.steps, help="default %(default)s")
    parser.add_argument("--people", type=int, default=embedding.PEOPLE, help="for the embedding (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.only != "embedding":
        build_probe_file(options.work, options.seed, options.probe_steps, options.finish_steps, options.clips)
    if options.only != "probe":
        build_embedding_file(options.work, options.seed, options.embedding_steps, options.people)


if __name__ == "__main__":
    main()
