"""Makes the pictures of the graphs and of the nodes' help pages anew, from the weights that ship:

    PICTURES=1 COMFYUI_PATH=... COMFYUI_PYTHON=... NODE_PATH=... python -m pytest -s tests/host/test_pictures.py

It writes workflows/*.jpg, web/docs/*.jpg and docs/images/demo_graph.png, and takes some minutes. COMFYUI_PYTHON needs
dlib for the pictures of Likeness and Prepare Face; without it these two are left as they are. PICTURES=name,name makes
those of some graphs only. Look at the result before it is committed.
"""

import json
import os
import subprocess

import cv2
import pytest
import torch
from PIL import Image

from slotid_core.demo.clips import target_tracks
from slotid_core.demo.prompts import Prompt
from slotid_core.demo.renderer import render
from slotid_core.video import save_video

from .comfyui import PACK, comfyui_python
from .graphs import GRAPHS
from .page import open_in_page

WANTED = os.environ.get("PICTURES", "")
DOCS, THUMBNAIL, PAGE = PACK / "web" / "docs", 800, 1600
# What is pictured of each graph: node id, help page, size of the node where the picture needs another than the graph's.
NODES = {
    "slotid_save_identity": [
        (1, "SlotIDLoadReferenceVideo", None),
        (5, "SlotIDEncodeIdentity", (520, 330)),
        (20, "SlotIDRoutingPreview", (520, 620)),
        (22, "SlotIDSaveIdentity", None),
    ],
    "slotid_reuse_identity": [(1, "SlotIDLoadIdentity", (430, 660))],
    "slotid_merge_blend": [(40, "SlotIDMergeIdentities", (430, 640)), (50, "SlotIDBlendIdentities", (430, 600))],
    "slotid_two_people": [(27, "SlotIDApply", (380, 600))],
    "slotid_guider": [(20, "SlotIDGuider", None)],
    "slotid_likeness": [(21, "SlotIDLikeness", (520, 560))],
    "doctor": [(2, "SlotIDPrepareFace", (640, 900))],
}
NEED_DLIB = ("slotid_likeness", "doctor")


def spoilt_clip(path):
    """A drawn person in a wide picture, out of focus for a while, then hidden, then walking out of it."""
    who, tracks = target_tracks([2_000_000], 0, [Prompt("front", "smile", "blue")], frames=33)
    frames = []
    for i, head in enumerate(render(who, tracks, 192, supersample=2)[0]):
        wide = torch.cat([head[:, :1].expand(-1, 160, -1), head, head[:, -1:].expand(-1, 160, -1)], 1)
        if 9 <= i < 13:
            wide = torch.from_numpy(cv2.GaussianBlur(wide.numpy(), (0, 0), 6))
        if 17 <= i < 21:
            wide[:, 200:320] = 0.45
        if i >= 23:
            gone = (i - 22) * 26
            wide = torch.cat([wide[:, :1].expand(-1, gone, -1), wide[:, :-gone]], 1)
        frames.append(wide.clamp(0, 1))
    save_video(path, torch.stack(frames), 16)


def test_pictures(server, small_vae, tmp_path):
    if not WANTED:
        pytest.skip("set PICTURES=1 to make the pictures of the graphs and help pages anew")
    has_dlib = not subprocess.run([comfyui_python(), "-c", "import dlib"], capture_output=True).returncode
    spoilt_clip(server.base / "input" / "doctor.mp4")
    # Makes the file that slotid_reuse_identity reads.
    graphs = sorted((graph.stem for graph in GRAPHS), key=lambda name: name != "slotid_save_identity")
    names = [name for name in (*graphs, "doctor") if WANTED == "1" or name in WANTED.split(",")]
    jobs = [job(name, tmp_path) for name in names if has_dlib or name not in NEED_DLIB]
    for seen in open_in_page(server, jobs, tmp_path):
        assert seen.get("status", "success") == "success", seen["answer"]
    for name in names:
        if (tmp_path / f"{name}.png").is_file() and name in graphs:
            keep(tmp_path / f"{name}.png", PACK / "workflows" / f"{name}.jpg", THUMBNAIL)
        for _, node, _ in NODES.get(name, ()):
            if (tmp_path / f"{node}.png").is_file():
                keep(tmp_path / f"{node}.png", DOCS / f"{node}.jpg", 640)
    if (tmp_path / "slotid_demo.png").is_file():
        shown = Image.open(tmp_path / "slotid_demo.png").convert("RGB")
        shown.thumbnail((PAGE, PAGE))
        shown.quantize(256).save(PACK / "docs" / "images" / "demo_graph.png", optimize=True)


def job(name, folder):
    """What page.cjs is to do for a graph."""
    nodes = [{"id": number, "size": size, "file": folder / f"{node}.png"} for number, node, size in NODES.get(name, ())]
    if name == "doctor":
        return {"graph": doctor(folder / "doctor.json"), "run": True, "nodes": nodes}
    graph = PACK / "workflows" / f"{name}.json"
    return {"graph": graph, "run": "wan" not in name, "picture": folder / f"{name}.png", "nodes": nodes}


def doctor(path):
    """The demo graph up to the report on the clip, with a clip that has something wrong."""
    graph = json.loads((PACK / "workflows" / "slotid_demo.json").read_text(encoding="utf-8"))
    graph["nodes"] = [node for node in graph["nodes"] if node["id"] in (1, 2, 14)]
    kept = {node["id"]: node for node in graph["nodes"]}
    graph["links"] = [link for link in graph["links"] if link[1] in kept and link[3] in kept]
    numbers = {link[0] for link in graph["links"]}
    for node in graph["nodes"]:
        for output in node["outputs"]:
            output["links"] = [number for number in output["links"] or [] if number in numbers]
    for number, first in ((1, "doctor.mp4"), (2, "dlib")):
        kept[number]["widgets_values"][0] = first
        kept[number].pop("widgets_values_named", None)
    path.write_text(json.dumps(graph))
    return path


def keep(source, target, width):
    picture = Image.open(source).convert("RGB")
    picture.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
    picture.save(target, quality=85, optimize=True)
