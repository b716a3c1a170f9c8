"""An experiment is one TOML file: read strictly, changed from the command line, copied into the run's folder.

A section is a frozen dataclass; its fields are the keys, their types and bounds. A key that is unknown, missing, of
another type or out of bounds is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import SlotIDError

SHIPPED = Path(__file__).parent / "configs"
# A resumed run may be made longer, and may save, log and draw at other times; all else would make it another run.
FREE = ("run.steps", "run.save_every", "run.save_minutes", "run.log_every", "run.accumulation", "samples.")


def setting(default: Any, low: float | None = None, high: float | None = None) -> Any:
    """A key with a default and the bounds of its value, both included."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """How weights move.

    Args:
        name: "adamw" (betas 0.9, 0.98), or "muon" for matrices and convolutions with AdamW for everything else.
        rate: learning rate of AdamW.
        matrix_rate: learning rate of Muon.
        weight_decay: AdamW's, of parameters with two or more dimensions.
        warmup: steps over which the rates rise.
        schedule: "cosine" from the warm-up to the end, or "tail": constant, then linear to zero over the last `decay`
            steps, so that a run does not depend on `steps` until the fall begins.
        decay: see `schedule`.
        floor: part of the rate at which "cosine" ends.
        clip: largest norm of the gradient.
        average: decay of the exponential moving average of the weights, which is what a run gives.
    """

    name: Literal["adamw", "muon"] = "adamw"
    rate: float = setting(1e-3, 0, 1)
    matrix_rate: float = setting(0.01, 0, 1)
    weight_decay: float = setting(0.01, 0, 1)
    warmup: int = setting(100, 1)
    schedule: Literal["cosine", "tail"] = "cosine"
    decay: int = setting(200, 1)
    floor: float = setting(0.05, 0, 1)
    clip: float = setting(1.0, 1e-6)
    average: float = setting(0.999, 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """How long, how wide, and what is kept.

    Args:
        steps: optimiser steps.
        batch: rows of one step over all devices.
        accumulation: parts in which each device takes its rows, so that a large batch fits.
        seed: of weights, order, noise and dropout.
        precision: "no" (float32), "bf16" or "fp16" (mixed).
        save_every: steps between checkpoints.
        save_minutes: minutes after which a checkpoint is due in any case.
        log_every: steps between looks at the losses; each step has its line in losses.csv all the same.
        trained_on: data, in a sentence, for the file that is made.
        license: of the weights that are made.
    """

    steps: int = setting(dataclasses.MISSING, 1)
    batch: int = setting(dataclasses.MISSING, 1)
    trained_on: str
    license: str
    accumulation: int = setting(1, 1)
    seed: int = setting(0, 0)
    precision: Literal["no", "bf16", "fp16"] = "no"
    save_every: int = setting(500, 1)
    save_minutes: float = setting(15.0, 0)
    log_every: int = setting(10, 1)


@dataclasses.dataclass(frozen=True)
class Samples:
    """The sample sheet, made with the averaged weights.

    Args:
        every: steps between sheets; 0 for none.
        rows: people (or clips) on it.
        vae: the VAE that decodes them; "demo" is the packaged one.
        steps, cfg, shift: of the sampling.
    """

    every: int = setting(0, 0)
    rows: int = setting(4, 1, 64)
    vae: str = "demo"
    steps: int = setting(12, 1, 1000)
    cfg: float = setting(2.0, 0)
    shift: float = setting(3.0, 1e-6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the loop itself needs; a task adds sections of its own."""

    task: str
    run: Run
    optimiser: Optimiser = Optimiser()
    samples: Samples = Samples()


def read(source: str | Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of a config file.

    Args:
        source: a TOML file, or the name of a shipped one ("demo_identity").
        changes: "section.key=value", value as TOML has it; what is no TOML value is taken as text.

    Raises:
        SlotIDError: no such file, no TOML, a change that is none.
    """
    path = Path(source)
    if path.suffix != ".toml" and path.name == str(path):
        path = SHIPPED / f"{path.name}.toml"
    try:
        data = parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        names = ", ".join(sorted(shipped.stem for shipped in SHIPPED.glob("*.toml")))
        raise SlotIDError(f"no config {str(source)!r}", f"a TOML file, or one of {names}", "check the name.") from error
    except ValueError as error:
        raise SlotIDError(f"{path.name!r} is no TOML: {error}", "a TOML file", "correct the line.") from error
    for change in changes:
        key, sign, text = change.partition("=")
        *sections, name = key.strip().split(".")
        if not sign or not name or len(sections) > 2:
            raise SlotIDError(f"--set {change}", "section.key=value", "write it so, without spaces around the =.")
        table = data
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise SlotIDError(f"--set {change}: {section!r} is no section", "section.key=value", "check the key.")
        try:
            table[name] = parse(f"value = {text}")["value"]
        except ValueError:
            table[name] = text.strip()
    return data


def parse(text: str) -> dict[str, Any]:
    """TOML. Raises ValueError for what is none."""
    try:
        import tomllib as toml
    except ModuleNotFoundError:
        try:
            import tomli as toml
        except ModuleNotFoundError as error:
            raise SlotIDError("tomli is not installed", "tomli, on Python 3.10", "pip install tomli") from error
    return toml.loads(text)


def build(kind: type, data: Any, name: str = "") -> Any:
    """A dataclass from a table, strictly.

    Raises:
        SlotIDError: naming the key that is unknown, missing, of another type or out of bounds.
    """
    if not isinstance(data, dict):
        raise _refusal(f"{name} = {data!r:.80}", "a section")
    hints, fields = get_type_hints(kind), {field.name: field for field in dataclasses.fields(kind)}
    dot = f"{name}." if name else ""
    for key in data:
        if key not in fields:
            raise _refusal(f"the unknown key {dot}{key}", f"one of {', '.join(dot + known for known in fields)}")
    values = {}
    for key, field in fields.items():
        if dataclasses.is_dataclass(hints[key]):
            values[key] = build(hints[key], data.get(key, {}), dot + key)
        elif key in data:
            values[key] = _checked(dot + key, data[key], hints[key], field.metadata)
        elif field.default is dataclasses.MISSING:
            raise _refusal(f"no {dot}{key}", f"a {_words(hints[key])}")
    return kind(**values)


def to_toml(config: Any) -> str:
    """The effective config, defaults included, as a TOML file that `read` takes."""
    tables = dataclasses.asdict(config)
    return "\n".join(_toml_lines("", tables)) + "\n"


def differences(config: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys in which two nested tables differ, those of `FREE` left out."""
    for key in sorted(config.keys() | other.keys()):
        name, one, two = prefix + key, config.get(key), other.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            yield from differences(one, two, f"{name}.")
        elif one != two and not name.startswith(FREE):
            yield f"{name} ({two!r} there, {one!r} now)"


def _toml_lines(name: str, table: dict[str, Any]) -> Iterator[str]:
    if name:
        yield f"\n[{name}]"
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{key} = {json.dumps(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _toml_lines(f"{name}.{key}" if name else key, value)


def _checked(name: str, value: Any, hint: Any, bounds: Any) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise _refusal(f"{name} = {value!r:.80}", f"one of {', '.join(map(repr, get_args(hint)))}")
        return value
    if hint is float and type(value) is int:
        value = float(value)
    # bool is an int to isinstance.
    if type(value) is not hint:
        raise _refusal(f"{name} = {value!r:.80}", f"a {_words(hint)}")
    low, high = bounds.get("low"), bounds.get("high")
    # The comparisons are written so that a NaN fails them.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        limits = f"{low} or more" if high is None else f"{low} to {high}"
        raise _refusal(f"{name} = {value!r}", limits)
    return value


def _words(hint: Any) -> str:
    names = {int: "whole number", float: "number", str: "text in quotes", bool: "true or false"}
    return names.get(hint, str(hint))


def _refusal(found: str, expected: str) -> SlotIDError:
    return SlotIDError(f"the config has {found}", expected, "correct the config file, or the --set.")
