"""The graphs in the page itself, in a headless Chromium: they open, the demo runs and shows its video.

Run with NODE_PATH naming a folder that has playwright-core, and CHROMIUM (default /usr/bin/chromium); skipped without.
PICTURE=file.png keeps a picture of the demo graph.
"""

import os
import re
from pathlib import Path

import pytest

from .graphs import GRAPHS, api
from .page import open_in_page

HELP = "SlotIDApply"
NOT_COMPARED = {"video-preview", "bit_depth", "codec", "format.codec"}
OTHERS = [graph.stem for graph in GRAPHS if graph.stem != "slotid_demo"]


@pytest.fixture(scope="module")
def opened(server, small_vae, tmp_path_factory):
    """What was seen of each graph, by its name."""
    folder = tmp_path_factory.mktemp("page")
    picture = Path(os.environ.get("PICTURE", folder / "page.png"))
    jobs = [{"graph": graph} for graph in GRAPHS]
    (demo,) = (job for job in jobs if job["graph"].stem == "slotid_demo")
    demo.update(run=True, picture=picture, help=[HELP])
    seen = open_in_page(server, jobs, folder)
    assert picture.stat().st_size > 50_000
    return {job["graph"].stem: saw for job, saw in zip(jobs, seen, strict=True)}


@pytest.fixture(scope="module")
def seen(opened):
    return opened["slotid_demo"]


@pytest.mark.parametrize("name", [graph.stem for graph in GRAPHS])
def test_no_node_is_missing(opened, name):
    assert opened[name]["missing"] == []


@pytest.mark.parametrize("name", [graph.stem for graph in GRAPHS])
def test_the_page_sends_the_api_form(opened, name):
    """What test_graphs.py runs is what the button would run."""
    assert bare(opened[name]["sent"]) == bare(api(name))


def bare(graph):
    """Types and inputs, without those that the page adds or that only one host knows."""
    return {
        node: (found["class_type"], {key: value for key, value in found["inputs"].items() if key not in NOT_COMPARED})
        for node, found in graph.items()
    }


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


def test_the_help_page_shows_its_picture(seen):
    page = seen["help"][HELP]
    assert "Puts an identity into a Wan" in page["text"]
    (picture,) = page["pictures"]
    assert picture["width"] > 300 and 100 < picture["shown"] <= picture["width"]


def test_the_console_holds_no_error_of_ours(opened):
    """A bare ComfyUI logs errors of its own: files of the user that are not there yet, news that it cannot fetch.

    Help pages are asked for in the page's language first.
    """
    errors = [error for seen in opened.values() for error in seen["errors"]]
    assert not [error for error in errors if re.search(r"slot.?id", error, re.I) and not error.endswith("/en.md")]
