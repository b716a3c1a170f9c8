"""Every graph of workflows/ through /prompt: to its end on the demo weights or, those of full-size Wan, to its end with
small stand-ins under whatever names, after the host found nothing wrong with it but files that nobody has."""

import json
import re
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from slotid_core.demo.files import demo_files
from slotid_core.identity import Identity
from slotid_core.model import SlotID
from slotid_core.video import load_video

from ..core.wan_files import dit_shapes, random_tensors
from .comfyui import PACK, NodeFailedError, comfyui_path, comfyui_python, complaints
from .graphs import DEMO, FACE, GRAPHS, MODEL, UNET, VAE, api, changed, of_type, shortened

FULL_SIZE = [graph.stem for graph in GRAPHS if "wan" in graph.stem]
# Makes the file that slotid_reuse_identity reads.
FIRST = "slotid_save_identity"
RUNS = sorted((graph.stem for graph in GRAPHS if graph.stem not in FULL_SIZE), key=lambda name: (name != FIRST, name))


@pytest.fixture(scope="module")
def example(server):
    """The picture that every ComfyUI has in its input folder."""
    shutil.copyfile(comfyui_path() / "input" / "example.png", server.base / "input" / "example.png")


def note_of(name):
    saved = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    (text,) = (node["widgets_values"][0] for node in saved["nodes"] if node["type"] == "MarkdownNote")
    return text


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_to_its_end(server, small_vae, name):
    graph, before = shortened(api(name)), len(server.log())
    if of_type(graph, "SlotIDLikeness") and subprocess.run([comfyui_python(), "-c", "import dlib"]).returncode:
        with pytest.raises(NodeFailedError, match="pip install dlib-bin"):
            server.run(graph)
        pytest.skip("the host's Python has no dlib, and the node says so")
    result = server.run(graph)
    assert complaints(server.log()[before:]) == []
    for node in of_type(graph, "SaveVideo"):
        (video,) = result.outputs[node]["images"]
        (size,) = of_type(graph, "EmptyHunyuanLatentVideo").values()
        frames = load_video(server.file(video), frames=size["length"]).frames
        assert frames.shape == (size["length"], size["height"], size["width"], 3) and frames.std() > 0.01
    for inputs in of_type(graph, "SlotIDSaveIdentity").values():
        Identity.load(server.base / "models" / "slot_id" / "identities" / f"{inputs['name']}.safetensors")
    assert result.outputs, "something is seen"


@pytest.mark.parametrize("name", FULL_SIZE)
def test_only_files_are_missing_and_the_note_names_them(server, example, name):
    graph = api(name)
    (save,) = of_type(graph, "SaveVideo")
    # Nothing else of it runs.
    answer = server.post("/prompt", {"prompt": graph, "partial_execution_targets": [save]})
    wrong = [error for found in answer["node_errors"].values() for error in found["errors"]]
    assert {error["type"] for error in wrong} <= {"value_not_in_list", "custom_validation_failed"}
    missing = {file for error in wrong for file in re.findall(r"'?([\w.-]+\.safetensors)'", error["details"])[:1]}
    assert len(missing) == len(wrong) >= 4
    assert [file for file in missing if file not in note_of(name)] == []


@pytest.fixture(scope="module")
def image_to_video(server):
    """A random model of the demo model's size that sees a first frame, as Wan 2.2's image-to-video experts do."""
    backbone = SlotID.load(demo_files().slot_id).config.backbone
    shapes = dit_shapes(backbone.width, backbone.depth, text=4096)
    shapes["patch_embedding.weight"] = (backbone.width, 36, 1, 2, 2)
    path = server.base / "models" / "diffusion_models" / "i2v.safetensors"
    save_file(random_tensors(shapes), path)
    return path.name


def stand_ins(graph, diffusion_model):
    """The graph with the demo's files, words and sizes."""
    for inputs in of_type(graph, "UNETLoader").values():
        inputs["unet_name"] = diffusion_model
    for name, own in (("VAELoader", VAE), ("SlotIDLoadModel", MODEL)):
        for inputs in of_type(graph, name).values():
            inputs.update(DEMO[own]["inputs"])
    for inputs in of_type(graph, "SlotIDPrepareFace").values():
        inputs["detector"] = DEMO[FACE]["inputs"]["detector"]
    for inputs in of_type(graph, "EmptyHunyuanLatentVideo", "WanImageToVideo").values():
        inputs.update(width=64, height=64, length=9)
    for node in of_type(graph, "CLIPTextEncode"):
        graph[node] = DEMO["8"]
    for node in (*of_type(graph, "CLIPLoader"), *of_type(graph, "PreviewAny")):
        del graph[node]
    return graph


def latents_of(server, graph):
    """What the last sampler of a graph gives."""
    (inputs,) = of_type(graph, "VAEDecode").values()
    graph = changed(graph, {})
    graph["latents"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": inputs["samples"], "filename_prefix": "latents/graph"},
    }
    result = server.run(graph)
    assert [video["filename"] for node in of_type(graph, "SaveVideo") for video in result.outputs[node]["images"]]
    (saved,) = result.outputs["latents"]["latents"]
    return load_file(server.file(saved))["latent_tensor"]


@pytest.mark.parametrize("name", FULL_SIZE)
def test_with_stand_ins_it_runs_to_its_end_and_every_apply_counts(server, small_vae, example, image_to_video, name):
    graph = stand_ins(shortened(api(name)), image_to_video if "i2v" in name else DEMO[UNET]["inputs"]["unet_name"])
    with_all = latents_of(server, graph)
    assert torch.isfinite(with_all).all()
    applied = of_type(graph, "SlotIDApply")
    assert len(applied) == (2 if "wan22" in name else 1)
    for node in applied:
        assert not torch.equal(with_all, latents_of(server, changed(graph, {node: {"strength": 0.0}})))
