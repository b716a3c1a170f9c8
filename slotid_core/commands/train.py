"""`slotid train`: a config to a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "train a Slot-ID model, or cache the clips for it"
DESCRIPTION = """\
Train what a config file describes. Run it again after a stop: it goes on from its last checkpoint, to the same losses.

The config is the whole experiment: models, data, optimiser, length. It is a TOML file, or the name of one that ships
(docs/training.md tells of each). With the word `cache` before it, the clips that it names are prepared first: faces
found, clips encoded, captions embedded, all kept on disk."""
EXAMPLES = """\
examples:
  slotid train cache demo_identity                          prepare the demo world's clips, once
  slotid train demo_identity                                train on them, into runs/demo_identity
  slotid train my.toml --run runs/second --set run.seed=1   another seed, in a folder of its own
  accelerate launch -m slotid_core train my.toml            on all GPUs of this computer"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "slotid train [cache] CONFIG [--run FOLDER] [--set SECTION.KEY=VALUE ...]"
    parser.add_argument("config", nargs="+", metavar="CONFIG", help="a TOML file, or the name of a shipped config")
    parser.add_argument(
        "-o", "--run", dest="folder", type=Path, metavar="FOLDER", help="of the run (default: runs/ + config's name)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one key of the config"
    )


def run(args: argparse.Namespace) -> None:
    *words, config = args.config
    if words not in ([], ["cache"]):
        args.parser.error(f"unexpected {' '.join(words)!r}: give a config, or the word cache and a config")

    from ..training.tasks import load_experiment

    experiment = load_experiment(config, args.set)
    if words:
        from ..training.cache import fill

        print(fill(experiment.data))
        return
    from ..training.loop import train
    from ..training.tasks import make_task

    folder = args.folder or Path("runs") / Path(config).name.removesuffix(".toml")
    made = train(make_task(experiment), experiment, folder)
    if made:
        print(f"Wrote {made}.")
