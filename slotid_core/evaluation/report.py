"""The report: every table and picture of the page, from the results on disk alone."""

from __future__ import annotations

import json
from pathlib import Path

from ..atomic import write_atomic
from ..errors import SlotIDError
from .bootstrap import Bootstrap
from .conditions import conditions_of
from .contact import write_sheets
from .page import blank, fill
from .plots import write_plots
from .results import READABILITY, TRUTH, Settings, read_runs, read_study
from .tables import Tables, judges, readable, runs_table

# Section -> heading on a page that does not exist yet.
SECTIONS = {
    "run": "What was run",
    "summary": "Identity in short",
    "people": "The people",
    "looks": "What a person looks like",
    "pose": "By the target's pose",
    "gap": "By the turn between reference and target",
    "marks": "The mark that the first frame hides",
    "dynamics": "How a person moves",
    "differences": "The full encoder against each condition",
    "faithfulness": "Faithfulness to the prompt, motion, realism",
    "readability": "What the latents hold",
    "judges": "The judges",
}


def write_report(results: Path, page: Path) -> list[Path]:
    """Fill the page's sections and write its pictures into `images` beside it, and figures.csv beside the results.

    Returns:
        The files written.

    Raises:
        SlotIDError: results that are missing or damaged, a page without room for a section, no matplotlib.
    """
    if not page.exists():
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(page, lambda path: path.write_text(blank("Evaluation", SECTIONS), encoding="utf-8"))
    # Before any figure is computed: has the page room for all of them?
    fill(page.read_text(encoding="utf-8"), dict.fromkeys(SECTIONS, ""))
    settings, rows = read_study(results)
    conditions = conditions_of(rows, read_runs(results))
    if TRUTH not in conditions:
        raise SlotIDError(f"no {TRUTH}.json in {str(results)!r}", "results of the real renders", "run slotid eval.")
    tables = Tables(conditions, Bootstrap(rows["person"]))
    pictures = page.parent / "images"
    sections = {
        "run": described(settings) + "\n\n" + runs_table(conditions),
        "summary": tables.summary(),
        "looks": tables.parameters(),
        "pose": tables.by_pose(),
        "gap": tables.by_gap(),
        "marks": tables.marks(),
        "dynamics": tables.dynamics(),
        "differences": tables.differences(),
        "faithfulness": tables.faithfulness(),
        "judges": judges(),
    }
    plots = dict(zip(("looks", "dynamics", "gap", "marks"), write_plots(tables, pictures), strict=True))
    for section, name in plots.items():
        sections[section] += f"\n\n![{SECTIONS[section]}](images/{name})"
    sheets = write_sheets(results, pictures, settings, conditions)
    sections["people"] = "\n\n".join(f"![{name.split('.')[0].replace('_', ' ')}](images/{name})" for name in sheets)
    sections["readability"], vae_pictures = _readability(results)
    text = fill(page.read_text(encoding="utf-8"), sections)
    write_atomic(page, lambda path: path.write_text(text, encoding="utf-8"))
    figures = results / "figures.csv"
    write_atomic(figures, lambda path: path.write_text(tables.csv(), encoding="utf-8"))
    return [page, figures, *(pictures / name for name in (*plots.values(), *sheets, *vae_pictures))]


def described(settings: Settings) -> str:
    """In a sentence: people, videos, sampling."""
    design, guidance = settings.design, settings.guidance
    last = design.first + design.people - 1
    kind = "held out from all training" if design.held_out else "**NOT held out: of the training range**"
    return (
        f"{design.people} people (seeds {design.first} to {last}, {kind}), five videos each of {settings.size} pixels: "
        f"every pose once, three smiles, one neutral, one surprise, every background once. Sampled with "
        f"{guidance.steps} Euler steps, shift {guidance.shift:g}, cfg {guidance.cfg:g}, identity cfg "
        f"{guidance.identity_cfg:g}; every condition from the same noise. Brackets: 95 % intervals over people, and "
        f"over training seeds where there are several."
    )


def _readability(results: Path) -> tuple[str, list[str]]:
    path = results / f"{READABILITY}.json"
    if not path.is_file():
        return "Not measured yet.", []
    data = json.loads(path.read_text(encoding="utf-8"))
    return readable(data), data["pictures"]
