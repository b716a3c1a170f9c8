"""`slotid eval`: measure whether identity is kept, in the demo world."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SlotIDError, SlotIDWarning
from .common import add_device_option, chosen_device, progress

if TYPE_CHECKING:
    import torch

    from ..evaluation.design import Design
    from ..evaluation.sampling import Guidance

SUMMARY = "measure whether identity is kept, in the demo world"
DESCRIPTION = """\
Sample videos of people that no training has seen, and measure how much of each person is in them.

In the demo world every part of a person is a known number. A probe, trained on real renders alone, reads these numbers
from the sampled videos; it shares nothing with the VAE, the encoder or the video model. Results are kept as one small
file a run: what is there is not measured again. Then all tables, plots and contact sheets are made from the results.

With the default people, in a folder that has docs/evaluation.md, that page and docs/evaluation are used; otherwise
slotid_eval/people_N."""
EXAMPLES = """\
examples:
  slotid eval                                          the packaged model, and the report of all results there are
  slotid eval --identity-seed 2004321 --people 40      people that nobody has tried
  slotid eval --weights-folder runs                    all encoders that slotid train has made there
  slotid eval --report-only                            tables and pictures again, from the results on disk
  slotid eval --probe-only                             how well the probe reads real renders of these people
  slotid eval --readability                            also what can be read from the VAE's latents"""


def add_options(parser: argparse.ArgumentParser) -> None:
    who = parser.add_argument_group("people")
    who.add_argument(
        "--identity-seed",
        type=int,
        metavar="N",
        help="the first person; held out are 1000000 to 1009999 and 2000000 to 2009999 (default: 2000000)",
    )
    who.add_argument("--people", type=int, metavar="N", help="how many, five videos each (default: 100)")

    models = parser.add_argument_group("models (default: the packaged demo models)")
    which = models.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, metavar="FILE", help="the Slot-ID model")
    which.add_argument(
        "--weights-folder", type=Path, metavar="FOLDER", help="evaluate all trained encoders in it and below"
    )
    models.add_argument("--variants", nargs="+", metavar="NAME", help="only these of them (full, frontal, mean, ...)")
    models.add_argument("--transformer", type=Path, metavar="FILE", help="the Wan diffusion model they are for")
    models.add_argument("--vae", type=Path, metavar="FILE", help="its VAE")
    add_device_option(models)

    how = parser.add_argument_group("sampling")
    how.add_argument("--steps", type=int, default=12, metavar="N", help="Euler steps (default: 12)")
    how.add_argument("--cfg", type=float, default=2.5, metavar="X", help="guidance by the prompt (default: 2.5)")
    how.add_argument(
        "--identity-cfg", type=float, default=1.0, metavar="X", help="by the identity, in units of cfg (default: 1)"
    )

    out = parser.add_argument_group("results")
    out.add_argument("--results", type=Path, metavar="FOLDER", help="one small file a run")
    out.add_argument("--report", type=Path, metavar="FILE", help="the page (.md); only its marked sections are written")
    out.add_argument("--force", action="store_true", help="measure again what is there")
    what = out.add_mutually_exclusive_group()
    what.add_argument("--report-only", action="store_true", help="sample nothing")
    what.add_argument("--probe-only", action="store_true", help="read real renders, print the accuracy, write nothing")
    out.add_argument("--readability", action="store_true", help="also measure what the VAE keeps (the gate)")
    work = Path("runs/evaluation")
    out.add_argument("--work", type=Path, default=work, metavar="FOLDER", help="its latents (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    from ..evaluation.design import FIRST_PERSON, PEOPLE, Design
    from ..evaluation.sampling import Guidance

    _check_usage(args)
    design = Design(
        FIRST_PERSON if args.identity_seed is None else args.identity_seed,
        PEOPLE if args.people is None else args.people,
    )
    if not design.held_out:
        warnings.warn(
            f"People {design.first} to {design.first + design.people - 1} are of the training range: what is measured "
            "of them is not held out.",
            SlotIDWarning,
            stacklevel=1,
        )
    if args.probe_only:
        _print_probe(design)
        return
    usual = design == Design() and Path("docs/evaluation.md").is_file()
    home = Path("docs") if usual else Path("slotid_eval") / f"people_{design.first}"
    results, page = args.results or home / "evaluation", args.report or home / "evaluation.md"
    if not args.report_only:
        device = chosen_device(args.device)
        _measure(args, design, Guidance(args.steps, cfg=args.cfg, identity_cfg=args.identity_cfg), results, device)
    if args.readability:
        _measure_readability(args, results, page)

    from ..evaluation.report import write_report

    with progress("Report"):
        written = write_report(results, page)
    print(f"Wrote {page} and {len(written) - 1} files of figures and pictures.")


def _measure(args: argparse.Namespace, design: Design, guidance: Guidance, results: Path, device: torch.device) -> None:
    from ..demo.files import demo_files
    from ..evaluation.models import find_trained, load_trained, read_origin
    from ..evaluation.results import PHOTOS
    from ..evaluation.study import Bench, baselines, trained

    paths = find_trained(args.weights_folder) if args.weights_folder else [args.model or demo_files().slot_id]
    if args.variants:
        paths = [path for path in paths if read_origin(path).variant in args.variants]
    if not paths:
        raise SlotIDError("no trained encoder to evaluate", "one or more", "check --weights-folder and --variants.")
    size = load_trained(paths[0]).config.encoder.crop_size
    with progress("References") as report:
        bench = Bench.set_up(
            results, design, guidance, transformer=args.transformer or demo_files().diffusion_model,
            vae=args.vae or demo_files().vae, size=size, device=device, progress=report,
        )  # fmt: skip
    jobs = baselines(bench)
    for path in paths:
        packaged = path == demo_files().slot_id
        jobs.append(trained(bench, path, wrong=False, device=device, packaged=packaged))
        # Another person's clip is a floor, which one encoder is enough to find.
        if packaged or args.model:
            jobs.append(trained(bench, path, wrong=True, device=device, packaged=packaged))
        # Only what ships has been trained to read both clips and photos.
        if packaged:
            jobs += [trained(bench, path, wrong=False, device=device, packaged=True, photo=photo) for photo in PHOTOS]
    names = [job.run.name for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SlotIDError(
            f"{twice[0]} is there twice", "one file for each variant and training seed", "take one file away."
        )
    for number, job in enumerate(jobs, 1):
        if not args.force and job.done(results):
            print(f"{job.run.name}: there already.")
            continue
        with progress(f"{job.run.name} ({number} of {len(jobs)})") as report:
            bench.measure(job, report)
        print(f"{job.run.name}: done.")


def _measure_readability(args: argparse.Namespace, results: Path, page: Path) -> None:
    from ..demo.files import demo_files
    from ..evaluation.readability import write_readability

    file = write_readability(args.vae or demo_files().vae, results, page.parent / "images", args.work)
    print(f"Wrote {file}.")


def _print_probe(design: Design) -> None:
    from ..evaluation.accuracy import probe_accuracy
    from ..evaluation.probe import load_probe

    for name, value in probe_accuracy(load_probe(), design.seeds).items():
        print(f"{name.replace('_', ' '):30} {value:6.3f}")


def _check_usage(args: argparse.Namespace) -> None:
    from ..training.variants import VARIANTS

    unknown = set(args.variants or ()) - VARIANTS.keys()
    if unknown:
        args.parser.error(f"unknown variant {', '.join(sorted(unknown))}: choose from {', '.join(VARIANTS)}")
    if not 1 <= args.steps <= 1000:
        args.parser.error("--steps must be 1 to 1000")
    if args.people is not None and args.people < 2:
        args.parser.error("--people must be 2 or more: a wrong reference needs another person")
