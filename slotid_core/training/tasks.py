"""What a config's `task` stands for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import SlotIDError
from .config import Experiment, build, read
from .loop import Task

# Name -> module (within this package), its config and its task.
TASKS = {
    "identity": (".identity", "IdentityExperiment", "IdentityTask"),
    "backbone": ("..demo.backbone", "BackboneExperiment", "BackboneTask"),
    "vae": ("..demo.vae", "VAEExperiment", "VAETask"),
}


def load_experiment(source: str | Path, changes: Sequence[str] = ()) -> Experiment:
    """The config of whichever task the file names.

    Raises:
        SlotIDError: a file, a task or a key that is not known.
    """
    data = read(source, changes)
    return build(getattr(_module(data), _names(data)[1]), data)


def make_task(config: Experiment) -> Task:
    """The task itself: models and data are loaded."""
    data = {"task": config.task}
    return getattr(_module(data), _names(data)[2])(config)


def _names(data: dict[str, Any]) -> tuple[str, str, str]:
    if data.get("task") not in TASKS:
        raise SlotIDError(
            f"the config has task = {data.get('task')!r}", f"one of {', '.join(TASKS)}", "correct the config file."
        )
    return TASKS[data["task"]]


def _module(data: dict[str, Any]) -> Any:
    return import_module(_names(data)[0], __package__)
