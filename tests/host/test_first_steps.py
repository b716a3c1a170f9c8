"""A first visit, from the templates to an identity used again, by mouse; makes docs/first_steps.md's pictures anew:

    FIRST_STEPS=1 COMFYUI_PATH=... COMFYUI_PYTHON=... NODE_PATH=... python -m pytest -s tests/host/test_first_steps.py

Look at the result before it is committed.
"""

import os

import pytest
from PIL import Image

from .comfyui import PACK
from .page import walk

PICTURES, WIDTH, LARGEST = PACK / "docs" / "images" / "first_steps", 1120, 120_000


def test_first_steps(server, small_vae, tmp_path):
    if not os.environ.get("FIRST_STEPS"):
        pytest.skip("set FIRST_STEPS=1 to walk through the page and make the pictures of the first steps anew")
    seen = walk(server, tmp_path)
    assert seen["errors"] == []
    assert [video["width"] for video in seen["videos"]] == [64, 64]
    for file in tmp_path.glob("*.png"):
        picture = Image.open(file).convert("RGB")
        picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
        kept = PICTURES / f"{file.stem}.jpg"
        picture.save(kept, quality=75, optimize=True)
        assert kept.stat().st_size <= LARGEST
