"""The demo graph in the page itself, in a headless Chromium: it opens, runs and shows its video.

Run with NODE_PATH naming a folder that has playwright-core, and CHROMIUM (default /usr/bin/chromium); skipped without.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .comfyui import PACK

SCRIPT = Path(__file__).with_name("page.cjs")


@pytest.fixture(scope="module")
def seen(server, small_vae, tmp_path_factory):
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require('playwright-core')"], capture_output=True).returncode:
        pytest.skip("node with playwright-core is not there: set NODE_PATH")
    if not Path(os.environ.get("CHROMIUM", "/usr/bin/chromium")).is_file():
        pytest.skip("no Chromium: set CHROMIUM")
    picture = Path(os.environ.get("PICTURE", tmp_path_factory.mktemp("page") / "page.png"))
    command = [node, SCRIPT, f"http://127.0.0.1:{server.port}", PACK / "workflows" / "slotid_demo.json", picture]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert picture.stat().st_size > 50_000
    return json.loads(done.stdout)


def test_no_node_is_missing(seen):
    assert seen["missing"] == []


def test_the_run_button_runs_it(seen):
    assert seen["answer"]["node_errors"] == {} and seen["status"] == "success"


def test_reference_and_result_are_shown(seen):
    shown = {re.search(r"filename=(\w+)", video["source"])[1]: video for video in seen["videos"]}
    result = next(video for name, video in shown.items() if name.startswith("slotid_demo_0"))
    assert result["width"] == 64 and result["seconds"] == pytest.approx(17 / 16, abs=0.05)
    assert shown["slotid_demo_kim"]["width"] > 0


def test_a_bypassed_apply_is_not_sent(seen):
    """The sampler then takes the loader's own model: the prompt whose latents test_demo_graph.py compares."""
    assert seen["bypassed"]["model"] == "UNETLoader"
    assert "SlotIDApply" not in seen["bypassed"]["sent"]


def test_the_console_holds_no_error_of_ours(seen):
    """A bare ComfyUI logs errors of its own: files of the user that are not there yet, news that it cannot fetch."""
    assert not [error for error in seen["errors"] if re.search(r"slot.?id", error, re.I)]
