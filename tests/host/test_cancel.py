"""Cancelling on the page: every long node shows how far it is, stops soon, and leaves the server as it was."""

import subprocess

import av
import numpy as np
import pytest
import torch

from ..core.wan_files import write_vae
from .comfyui import comfyui_python, comfyui_version
from .events import Events
from .graphs import DEMO, ENCODE, FACE, LOAD, MODEL, SAMPLER, VAE, changed, demo, latents_only
from .test_demo_graph import latents_of

# Of computing; what the clock says depends on what else the machine does.
SECONDS = 2.0


@pytest.fixture(scope="module")
def dlib(comfyui):
    return not subprocess.run([comfyui_python(), "-c", "import dlib"], capture_output=True).returncode


@pytest.fixture(scope="module")
def long_clip(server):
    """Three minutes: one second of moving stripes, over and over."""
    path = server.base / "input" / "long.mp4"
    rows, columns = np.mgrid[:720, :1280]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        packets = []
        for i in range(30):
            grey = (127 + 120 * np.sin((columns + 3 * rows + 12 * i) / 40)).astype(np.uint8)
            packets += stream.encode(av.VideoFrame.from_ndarray(np.stack([grey] * 3, -1), format="rgb24"))
        packets += stream.encode(None)
        base = packets[0].time_base
        copies = [(bytes(packet), packet.pts, packet.is_keyframe) for packet in packets]
        for second in range(180):
            for data, pts, keyframe in copies:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, base
                packet.pts = packet.dts = pts + round(second / base)
                packet.is_keyframe = keyframe
                out.mux(packet)
    return path.name


def cancel(server, graph, node):
    """Run a graph and cancel it once the node has shown some progress; seconds of computing until it ended."""
    with Events(server.port) as events:
        answer = server.post("/prompt", {"prompt": graph, "client_id": events.client})
        assert answer["node_errors"] == {}
        shown = {"value": 0, "max": 1}
        while not 0 < shown["value"] < shown["max"]:
            shown = events.until("progress", node=node)
        before = server.cpu_seconds()
        server.post("/interrupt", {})
        ended = events.until("execution_interrupted", prompt_id=answer["prompt_id"])
        seconds = server.cpu_seconds() - before
    print(f"{graph[node]['class_type']}: cancelled after {seconds:.2f} s of computing")
    assert ended["node_id"] == node
    return seconds


def test_reading_a_long_clip(server, long_clip):
    graph = {LOAD: DEMO[LOAD], "text": {"class_type": "PreviewAny", "inputs": {"source": [LOAD, 3]}}}
    graph = changed(graph, {LOAD: {"file": long_clip, "frames": 161, "fps": 1.0}})
    assert cancel(server, graph, LOAD) < SECONDS
    report = server.run(changed(graph, {LOAD: {"frames": 5}})).outputs["text"]["text"][0]
    assert "5 frames of 1024 x 576" in report


def test_finding_the_face(server, long_clip, dlib):
    graph = {node: DEMO[node] for node in (LOAD, FACE)}
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": [FACE, 4]}}
    graph = changed(graph, {LOAD: {"file": long_clip, "frames": 161}, FACE: {"detector": "dlib"}})
    assert cancel(server, graph if dlib else changed(graph, {FACE: {"detector": "whole_frame"}}), FACE) < SECONDS
    graph = changed(graph, {LOAD: {"frames": 5}, FACE: {"detector": "whole_frame"}})
    assert "5 frames" in server.run(graph).outputs["text"]["text"][0]


@pytest.fixture(scope="module")
def vae(server, comfyui):
    """A VAE that the host takes: the demo's, or a wide one on hosts that take no other."""
    if comfyui_version(comfyui) >= (0, 33):
        yield DEMO[VAE]["inputs"]["vae_name"]
        return
    folder = server.base / "models" / "vae"
    folder.mkdir(exist_ok=True)
    write_vae(folder / "wide.safetensors", base=96, dtype=torch.float16)
    yield "wide.safetensors"
    (folder / "wide.safetensors").unlink()


def test_reading_an_identity(server, vae):
    graph = {node: DEMO[node] for node in (LOAD, VAE, MODEL, ENCODE)}
    graph["many"] = {"class_type": "RepeatImageBatch", "inputs": {"image": [LOAD, 1], "amount": 5}}
    graph["show"] = {"class_type": "PreviewImage", "inputs": {"images": [ENCODE, 1]}}
    graph = changed(graph, {LOAD: {"frames": 33}, VAE: {"vae_name": vae}, ENCODE: {"faces": ["many", 0]}})
    assert cancel(server, graph, ENCODE) < SECONDS
    graph = changed(graph, {LOAD: {"frames": 1}, "many": {"amount": 1}})
    assert server.run(graph).outputs["show"]["images"], "the VAE works again"


def test_measuring_likeness(server, dlib):
    if not dlib:
        pytest.skip("the host's Python has no dlib")
    graph = {LOAD: DEMO[LOAD], "likeness": likeness(samples=264)}
    graph["many"] = {"class_type": "RepeatImageBatch", "inputs": {"image": [LOAD, 1], "amount": 8}}
    assert cancel(server, graph, "likeness") < SECONDS
    # Of 0.6 s to 0.9 s, in which the drawn head looks at the viewer.
    graph = changed(graph, {LOAD: {"start": 0.6, "frames": 5}, "many": {"amount": 1}, "likeness": {"samples": 2}})
    assert "To the nearest of" in server.run(graph).outputs["likeness"]["text"][0]


def likeness(samples):
    inputs = {"images": ["many", 0], "reference": [LOAD, 0], "meter": "dlib (free for any use)"}
    return {"class_type": "SlotIDLikeness", "inputs": {**inputs, "samples": samples, "curricularface": "none"}}


def test_sampling_with_an_identity(server):
    before = latents_of(server, latents_only())
    assert cancel(server, latents_only({SAMPLER: {"steps": 10000}}), SAMPLER) < SECONDS
    assert torch.equal(before, latents_of(server, latents_only())), "nothing of the cancelled run is left"


def test_sampling_the_demo(server, small_vae):
    assert cancel(server, demo({SAMPLER: {"steps": 1000}}), SAMPLER) < SECONDS
