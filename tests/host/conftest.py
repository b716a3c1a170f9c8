"""One server per test run; skipped where there is no ComfyUI."""

from __future__ import annotations

import os
import subprocess

import pytest

from .comfy import Server, comfyui_path, comfyui_python, comfyui_version


@pytest.fixture(scope="session")
def comfyui():
    path = comfyui_path()
    if path is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH (and COMFYUI_PYTHON), or install the pack in one")
    return path


@pytest.fixture(scope="session")
def version(comfyui):
    return comfyui_version(comfyui)
