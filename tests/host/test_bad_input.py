"""What a user can get wrong, through /prompt: an error on the node that says what to do, and a server that goes on."""

import json
import pickle
import shutil
import struct
import subprocess

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from slotid_core.demo.files import demo_files

from .comfyui import NodeFailedError, comfyui_python
from .graphs import APPLY, FACE, LOAD, MODEL, UNET, changed, demo, latents_only


@pytest.fixture(scope="module")
def inputs(server):
    """Reference files that are no clips, in the server's input folder."""
    folder = server.base / "input"
    clip = demo_files().clips[0].read_bytes()
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes(clip[: len(clip) // 4])
    (folder / "sound.mp4").write_bytes(wave())
    Image.new("RGB", (64, 64), "gray").save(folder / "photo.png")
    Image.new("RGB", (7680, 4320), "gray").save(folder / "8k.jpg")
    shutil.copyfile(demo_files().clips[0], folder / "clip.mp4")
    return folder


def wave():
    """A tenth of a second of silence."""
    data = bytes(1600)
    body = (
        b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def read(**changes):
    """A graph that reads a reference clip and finds the face in it."""
    graph = {node: demo()[node] for node in (LOAD, FACE)}
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": [LOAD, 3]}}
    graph["face_text"] = {"class_type": "PreviewAny", "inputs": {"source": [FACE, 4]}}
    return changed(graph, {LOAD: changes})


def refused(server, graph, node):
    with pytest.raises(NodeFailedError) as error:
        server.run(graph)
    assert error.value.node == node
    assert "Expected: " in error.value.message and "What to do: " in error.value.message
    assert server.status("/system_stats") == 200
    return error.value.message


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("text.mp4", "text.mp4"),
        ("empty.mp4", "empty"),
        ("cut.mp4", "cut.mp4"),
        ("sound.mp4", "sound.mp4"),
        ("missing.mp4", "There is no reference video"),
        ("../server.log", "There is no reference video"),
        ("/etc/passwd", "There is no reference video"),
    ],
)
def test_no_clip(server, inputs, file, words):
    assert words in refused(server, read(file=file), LOAD)


def test_a_start_after_the_end(server, inputs):
    assert "start is 100" in refused(server, read(file="clip.mp4", start=100.0), LOAD)


def test_a_photo_works_with_a_warning(server, inputs):
    assert "one frame" in server.run(read(file="photo.png")).outputs["text"]["text"][0]


def test_8k_frames_are_brought_to_size(server, inputs):
    assert "1024 x 576" in server.run(read(file="8k.jpg")).outputs["text"]["text"][0]


def test_landmarks_without_landmarks(server, inputs):
    refused(server, changed(read(file="clip.mp4"), {FACE: {"detector": "landmarks"}}), FACE)


def test_no_face_or_no_detector(server, inputs):
    """An even grey photo: dlib says that it sees no face, or which command installs it."""
    has_dlib = not subprocess.run([comfyui_python(), "-c", "import dlib"], capture_output=True).returncode
    message = refused(server, changed(read(file="photo.png"), {FACE: {"detector": "dlib"}}), FACE)
    assert ("o face" if has_dlib else "pip install") in message


@pytest.fixture(scope="module")
def models(server):
    """Slot-ID model files that must not be taken, made from a good one."""
    folder = server.base / "models" / "slot_id"
    good = folder / "test.safetensors"
    tensors, metadata = load_file(good), metadata_of(good)
    first = next(iter(tensors))

    def write(name, tensors, metadata=metadata):
        save_file(tensors, folder / f"{name}.safetensors", metadata)

    write("nan", {**tensors, first: torch.full_like(tensors[first], float("nan"))})
    write("missing", {name: tensor for name, tensor in tensors.items() if name != first})
    write("extra", {**tensors, "added": torch.zeros(1)})
    write("newer", tensors, {**metadata, "format_version": "999"})
    write("foreign", {"weight": torch.zeros(1)}, {})
    # The same weights with other words: another file, whose identities are not this one's.
    write("other", tensors, {**metadata, "trained_on": "something else"})
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"weights": [0.0] * 100}))
    (folder / "header.safetensors").write_bytes(struct.pack("<Q", 100 * 1024**2) + b"{" + b" " * 1000)
    (folder / "truncated.safetensors").write_bytes(good.read_bytes()[:-1000])
    return folder


def metadata_of(path):
    with path.open("rb") as file:
        return json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))["__metadata__"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nan", "NaN"),
        ("missing", "missing"),
        ("extra", "added"),
        ("newer", "999"),
        ("foreign", "foreign"),
        ("pickle", "pickle"),
        ("header", "header"),
        ("truncated", "truncated"),
    ],
)
def test_a_model_file_that_cannot_be_trusted(server, models, name, word):
    assert word in refused(server, latents_only({MODEL: {"file": f"{name}.safetensors"}}), MODEL)


def test_a_backbone_of_another_width(server):
    message = refused(server, latents_only({UNET: {"unet_name": "narrow_dit.safetensors"}}), APPLY)
    assert "width 128" in message and "width 256" in message


def test_an_identity_of_another_model(server, models):
    message = refused(server, latents_only({MODEL: {"file": "other.safetensors"}}), APPLY)
    assert "test.safetensors" in message and "other.safetensors" in message


def test_an_empty_range(server):
    refused(server, latents_only({APPLY: {"start_percent": 0.7, "end_percent": 0.3}}), APPLY)


def test_a_model_file_is_no_identity(server):
    folder = server.base / "models" / "slot_id"
    shutil.copyfile(folder / "test.safetensors", folder / "identities" / "model.safetensors")
    refused(server, latents_only({"identity": {"file": "model.safetensors"}}), "identity")


@pytest.mark.parametrize("name", ["../anna", "/tmp/anna", "anna\0", "a/b/c", ""])
def test_a_name_that_leads_astray(server, name):
    before = set(server.base.rglob("*.safetensors"))
    assert "cannot be used for a file" in refused(server, saving(name), "save")
    assert set(server.base.rglob("*.safetensors")) == before


def test_a_name_through_a_wire_is_checked_too(server):
    graph = saving(["name", 0])
    graph["name"] = {"class_type": "PrimitiveString", "inputs": {"value": "../anna"}}
    refused(server, graph, "save")


def saving(name):
    return {
        "identity": latents_only()["identity"],
        "save": {
            "class_type": "SlotIDSaveIdentity",
            "inputs": {"identity": ["identity", 0], "name": name, "overwrite": False},
        },
    }


def test_an_image_vae(server):
    """Any VAE but the video model's own is refused before anything is computed."""
    graph = {node: demo()[node] for node in (LOAD, FACE, MODEL, "5")}
    graph["vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}
    graph["text"] = {"class_type": "PreviewImage", "inputs": {"images": ["5", 1]}}
    graph["5"]["inputs"]["vae"] = ["vae", 0]
    assert "Wan video VAE" in refused(server, graph, "5")


def test_the_server_still_works(server):
    assert server.run(latents_only({"latents": {"filename_prefix": "latents/last"}})).outputs["latents"]
