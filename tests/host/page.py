"""Graphs in ComfyUI's page, in a headless Chromium: what page.cjs sees of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("page.cjs")
SECONDS = 3600


def open_in_page(server, jobs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What was seen of each job of page.cjs; skips where node, playwright-core or Chromium is not there."""
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require('playwright-core')"], capture_output=True).returncode:
        pytest.skip("node with playwright-core is not there: set NODE_PATH")
    if not Path(os.environ.get("CHROMIUM", "/usr/bin/chromium")).is_file():
        pytest.skip("no Chromium: set CHROMIUM")
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs, default=str))
    command = [node, SCRIPT, f"http://127.0.0.1:{server.port}", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
