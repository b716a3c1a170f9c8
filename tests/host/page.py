"""ComfyUI's page in a headless Chromium: what page.cjs sees of graphs, and walk.cjs of a first visit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SECONDS = 3600


def open_in_page(server, jobs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What was seen of each job of page.cjs; skips where node, playwright-core or Chromium is not there."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs, default=str))
    return _seen("page.cjs", server, file)


def walk(server, folder: Path) -> dict[str, Any]:
    """What walk.cjs saw; its pictures are in `folder` then. Skips as above."""
    return _seen("walk.cjs", server, folder)


def _seen(script: str, server, argument: Path) -> Any:
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require('playwright-core')"], capture_output=True).returncode:
        pytest.skip("node with playwright-core is not there: set NODE_PATH")
    if not Path(os.environ.get("CHROMIUM", "/usr/bin/chromium")).is_file():
        pytest.skip("no Chromium: set CHROMIUM")
    command = [node, HERE / script, f"http://127.0.0.1:{server.port}", argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
