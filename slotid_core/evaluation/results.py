"""Results on disk: one folder is one study, with one small JSON file a run.

    study.json      settings, and what is known of every video (`Design.rows`)
    truth.json      the renders themselves, judged
    round_trip.json the renders through the VAE: what the best video model could reach
    none.json       the video model without identity
    packaged.json   the packaged model; packaged.wrong.json with another person's reference, packaged.first.json and
                    packaged.frontal.json with one frame of it
    full.0.json     variant and training seed, for comparison at equal training; full.0.wrong.json likewise
    readability.json what a probe reads from the VAE's latents, and how near its pictures come
    strips/*.png    frames of a few videos of each run, for the contact sheets
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_atomic
from ..errors import SlotIDError
from .design import Design
from .sampling import Guidance

FORMAT, VERSION = "slot-id-evaluation", 1
# Far finer than any of the judges, and a third of the size.
READ_DIGITS, TRUE_DIGITS = 3, 5
TRUTH, ROUND_TRIP, NONE, PACKAGED = "truth", "round_trip", "none", "packaged"
# Photos that the packaged model is given in place of the clip.
PHOTOS = ("frontal", "first")
STUDY, READABILITY = "study", "readability"


@dataclass(frozen=True)
class Settings:
    """What all runs of a folder share.

    size: side of the videos in pixels. files: SHA-256 of video model, VAE, probe and embedding, by name.
    """

    design: Design
    guidance: Guidance
    size: int
    files: dict[str, str]


@dataclass(frozen=True)
class Run:
    """One run's videos as judged.

    Attributes:
        name: the file's name without its ending.
        variant: of the encoder, or "truth", "round_trip", "none", "packaged", "packaged, frontal".
        wrong: whether each person was given the next person's clip.
        seed, steps: of the training; None where nothing was trained.
        columns: by name [videos] or [videos, n]: a number for every parameter, mark, word and "yaw" as the probe read
            them; "motion", mean absolute difference of neighbouring frames; "similarity" to the person's own gallery,
            "impostors" to those of others; "features".
        facts: about the model file.
    """

    name: str
    variant: str
    wrong: bool
    seed: int | None
    steps: int | None
    columns: dict[str, np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)


def open_study(folder: Path, settings: Settings) -> None:
    """Begin a folder, or hold the settings of the study that is there against these.

    Raises:
        SlotIDError: it is of other people, steps, guidance or files.
    """
    path = folder / f"{STUDY}.json"
    facts = json.loads(json.dumps(asdict(settings)))
    if path.exists():
        there = _read(path)["settings"]
        if there != facts:
            changed = next(part for part in facts if there.get(part) != facts[part])
            raise SlotIDError(
                f"the results in {str(folder)!r} have {changed} {there.get(changed)}",
                f"{changed} {facts[changed]}",
                "name another folder with --results, or delete that one.",
            )
        return
    rows = {name: _short(values, TRUE_DIGITS) for name, values in settings.design.rows().items()}
    _write(path, {"format": FORMAT, "version": VERSION, "settings": facts, "rows": rows})


def read_study(folder: Path) -> tuple[Settings, dict[str, np.ndarray]]:
    """Settings, and what is known of every video.

    Raises:
        SlotIDError: no study there, or a damaged one.
    """
    data = _read(folder / f"{STUDY}.json")
    try:
        facts = data["settings"]
        settings = Settings(Design(**facts["design"]), Guidance(**facts["guidance"]), facts["size"], facts["files"])
        return settings, {name: np.asarray(values) for name, values in data["rows"].items()}
    except (KeyError, TypeError) as error:
        raise _damaged(folder / f"{STUDY}.json") from error


def write_run(folder: Path, run: Run) -> None:
    """Write one run's file."""
    columns = {name: _short(values, READ_DIGITS) for name, values in run.columns.items()}
    _write(folder / f"{run.name}.json", {"format": FORMAT, "version": VERSION, **vars(run), "columns": columns})


def read_runs(folder: Path) -> list[Run]:
    """All runs of a folder, by name.

    Raises:
        SlotIDError: a damaged file, or one with another number of videos than the study has.
    """
    count = len(read_study(folder)[1]["person"])
    runs = []
    for path in sorted(folder.glob("*.json")):
        if path.stem in (STUDY, READABILITY):
            continue
        data = _read(path)
        try:
            columns = {name: np.asarray(values) for name, values in data["columns"].items()}
            known = {name: data[name] for name in ("name", "variant", "wrong", "seed", "steps", "facts")}
            run = Run(columns=columns, **known)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path) from error
        if any(len(values) != count for values in run.columns.values()):
            raise _damaged(path)
        runs.append(run)
    return runs


def strip_path(folder: Path, name: str) -> Path:
    return folder / "strips" / f"{name}.png"


def _short(values: np.ndarray, digits: int) -> list:
    """Nested lists, numbers with so many significant digits."""
    values = np.asarray(values)
    if values.dtype.kind != "f":
        return values.tolist()
    short = np.array([float(f"{value:.{digits}g}") for value in values.ravel()])
    return short.reshape(values.shape).tolist()


def _write(path: Path, data: dict[str, Any]) -> None:
    # A column a line: small, and a difference of two versions can be read.
    lines = []
    for key, value in data.items():
        if isinstance(value, dict) and value:
            inner = ",\n  ".join(f"{json.dumps(name)}: {_packed(part)}" for name, part in value.items())
            lines.append(f"{json.dumps(key)}: {{\n  {inner}\n }}")
        else:
            lines.append(f"{json.dumps(key)}: {_packed(value)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: temporary.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8"))


def _packed(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SlotIDError(f"no {path.name} in {str(path.parent)!r}", "a folder of results", "run slotid eval first.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        fine = (data["format"], data["version"]) == (FORMAT, VERSION)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise _damaged(path) from error
    if not fine:
        raise _damaged(path)
    return data


def _damaged(path: Path) -> SlotIDError:
    return SlotIDError(
        f"{path.name!r} is no whole file of results", f"format {FORMAT}, version {VERSION}", "delete it and run again."
    )
