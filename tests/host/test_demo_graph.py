"""The packaged graphs through /prompt: to a saved video, and to latents that compare."""

import hashlib
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from slotid_core.demo.files import demo_files
from slotid_core.identity import Identity
from slotid_core.video import load_video

from ..core.wan_files import write_vae
from .comfyui import PACK, comfyui_version, complaints
from .graphs import (
    APPLY,
    CREATE,
    DECODE,
    ENCODE,
    FACE,
    LOAD,
    MODEL,
    SAMPLER,
    SAVE,
    UNET,
    VAE,
    changed,
    demo,
    latents_only,
    without,
)

FEW_STEPS = {SAMPLER: {"steps": 3}}
KIM, ROBIN = (f"{clip.name} [temp]" for clip in demo_files().clips[:2])


def frames_of(server, result):
    (video,) = result.outputs[SAVE]["images"]
    return load_video(server.file(video), frames=17).frames


def latents_of(server, graph):
    server.forget()
    (saved,) = server.run(graph).outputs["latents"]["latents"]
    return load_file(server.file(saved))["latent_tensor"]


def unconditioned(seed=1):
    return without(latents_only({SAMPLER: {"model": [UNET, 0], "seed": seed}}), APPLY, MODEL, "identity")


def test_the_demo_graph_ends_in_a_video(server, small_vae):
    before = len(server.log())
    result = server.run(demo())
    assert complaints(server.log()[before:]) == []
    frames = frames_of(server, result)
    assert frames.shape == (17, 64, 64, 3) and frames.std() > 0.01
    shown = {node for node, output in result.outputs.items() if output.get("images")}
    assert {LOAD, FACE, ENCODE, SAVE} <= shown, "clip, contact sheet, routing and video are seen on their nodes"


def test_previews_are_there_though_nothing_had_to_run(server, small_vae):
    """Contact sheet and routing stay on their nodes when the graph is run again, or the page is opened anew."""
    server.run(demo(FEW_STEPS))
    again = server.run(demo(FEW_STEPS))
    assert {LOAD, FACE, ENCODE} <= again.cached
    assert {LOAD, FACE, ENCODE} <= {node for node, output in again.outputs.items() if output.get("images")}


def test_the_clip_decides_and_nothing_else(server, small_vae):
    """The same clip twice gives the same frames, another clip others.

    Compared before SaveVideo: ComfyUI's H.264 encoder gives other bytes for the same frames when the machine is busy.
    """
    videos = []
    for clip in (KIM, ROBIN, KIM):
        graph = without(demo({**FEW_STEPS, LOAD: {"file": clip}}), CREATE, SAVE)
        graph["frames"] = {"class_type": "SaveImage", "inputs": {"images": [DECODE, 0], "filename_prefix": "frames"}}
        server.forget()
        files = [server.file(image) for image in server.run(graph).outputs["frames"]["images"]]
        videos.append(np.stack([np.asarray(Image.open(file).convert("RGB"), dtype=float) for file in files]))
    assert videos[0].shape == (17, 64, 64, 3)
    assert np.array_equal(videos[0], videos[2])
    # In levels of 255: another person, not another rounding.
    assert np.abs(videos[0] - videos[1]).mean() > 4


def test_an_identity_keeps_where_it_comes_from(server, small_vae):
    graph = demo(FEW_STEPS)
    graph["save"] = {
        "class_type": "SlotIDSaveIdentity",
        "inputs": {"identity": [ENCODE, 0], "name": "cast/kim", "overwrite": True},
    }
    graph[ENCODE]["inputs"]["consent"] = "a drawing"
    result = server.run(graph)
    assert "identities/cast/kim.safetensors" in result.outputs["save"]["text"][0]
    path = server.base / "models" / "slot_id" / "identities" / "cast" / "kim.safetensors"
    identity = Identity.load(path)
    clip = demo_files().clips[0]
    assert identity.source == clip.name
    assert identity.source_hash == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert identity.coverage["frames"] == 33 and identity.coverage["detector"] == "whole_frame"
    assert identity.model_name == demo_files().slot_id.name and identity.consent == "a drawing"
    assert path.stat().st_size < 1_000_000
    options = server.get("/object_info/SlotIDLoadIdentity")["SlotIDLoadIdentity"]["input"]["required"]["file"][1]
    assert "cast/kim.safetensors" in options["options"], "a saved identity is listed without a restart"


def test_the_full_width_vae_reads_an_identity_too(comfyui, server):
    """The nodes up to the identity on hosts whose VAE loader takes no other width, with random weights."""
    if comfyui_version(comfyui) >= (0, 33):
        pytest.skip("this ComfyUI takes the demo's small VAE, which the other tests use")
    folder = server.base / "models" / "vae"
    folder.mkdir(exist_ok=True)
    write_vae(folder / "full.safetensors", base=96, dtype=torch.float16)
    graph = {node: demo()[node] for node in (LOAD, FACE, VAE, MODEL, ENCODE)}
    graph = changed(graph, {LOAD: {"frames": 5}, VAE: {"vae_name": "full.safetensors"}})
    graph["save"] = {
        "class_type": "SlotIDSaveIdentity",
        "inputs": {"identity": [ENCODE, 0], "name": "full", "overwrite": True},
    }
    result = server.run(graph)
    assert result.outputs[ENCODE]["images"], "the routing is shown"
    identity = Identity.load(server.base / "models" / "slot_id" / "identities" / "full.safetensors")
    assert identity.source == demo_files().clips[0].name and len(identity.frames_used) == 5
    (folder / "full.safetensors").unlink()


def test_plain_images_work_as_clip_and_as_crops(server, small_vae):
    """IMAGE batches fit the sockets; the identity then knows no file."""
    graph = demo(FEW_STEPS)
    graph[FACE]["inputs"]["clip"] = [LOAD, 1]
    graph[ENCODE]["inputs"]["faces"] = [FACE, 1]
    assert frames_of(server, server.run(graph)).shape[0] == 17


def test_strength_0_a_bypassed_node_and_a_removed_node_leave_the_model_alone(server):
    before = latents_of(server, unconditioned())
    on = latents_of(server, latents_only())
    # Bypassed and removed nodes are both absent from the prompt that the page sends.
    after = latents_of(server, unconditioned())
    assert torch.equal(before, after)
    assert torch.equal(before, latents_of(server, latents_only({APPLY: {"strength": 0.0}})))
    assert torch.isfinite(on).all() and not torch.equal(before, on)


def test_two_references_give_different_latents_and_one_the_same(server):
    one, two = (
        latents_of(server, latents_only({"identity": {"file": f"{name}.safetensors"}})) for name in ("one", "two")
    )
    assert torch.equal(one, latents_of(server, latents_only()))
    assert (one - two).abs().max() > 1e-3


def test_a_batch_of_two(server):
    latent = {"9": {"batch_size": 2}}
    off = latents_of(server, latents_only({APPLY: {"strength": 0.0}, **latent}))
    on = latents_of(server, latents_only(latent))
    assert off.shape == on.shape and on.shape[0] == 2
    assert all(not torch.equal(off[i], on[i]) for i in range(2))


def test_a_changed_file_runs_again_and_an_unchanged_one_does_not(server):
    file = server.base / "input" / "ref.mp4"
    shutil.copyfile(demo_files().clips[0], file)
    graph = {
        "load": {**demo()[LOAD], "inputs": {**demo()[LOAD]["inputs"], "file": "ref.mp4"}},
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["load", 3]}},
    }
    server.run(graph)
    assert "load" in server.run(graph).cached
    shutil.copyfile(demo_files().clips[1], file)
    assert "load" not in server.run(graph).cached


def test_a_video_from_another_node_is_read_as_its_file(server):
    """The same frames, whether the file is chosen on the node or arrives as a VIDEO."""
    shutil.copyfile(demo_files().clips[0], server.base / "input" / "wired.mp4")
    load = demo()[LOAD]
    graph = {
        "video": {"class_type": "LoadVideo", "inputs": {"file": "wired.mp4"}},
        "load": {**load, "inputs": {**load["inputs"], "file": ROBIN, "video": ["video", 0]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["load", 1], "filename_prefix": "wired"}},
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["load", 3]}},
    }
    result = server.run(graph)
    assert len(result.outputs["save"]["images"]) == 33
    assert "wired.mp4: 33 frames" in result.outputs["text"]["text"][0]


def test_a_trimmed_video_is_read_where_it_was_trimmed(comfyui, server):
    if comfyui_version(comfyui) < (0, 33):
        pytest.skip("this ComfyUI has no node that trims a VIDEO")
    shutil.copyfile(demo_files().clips[0], server.base / "input" / "whole.mp4")
    load = demo()[LOAD]
    trim = {"video": ["video", 0], "start_time": 0.5, "duration": 0.75, "strict_duration": False}
    graph = {
        "video": {"class_type": "LoadVideo", "inputs": {"file": "whole.mp4"}},
        "trim": {"class_type": "Video Slice", "inputs": trim},
        "load": {**load, "inputs": {**load["inputs"], "start": 0.25, "video": ["trim", 0]}},
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["load", 3]}},
    }
    # 0.25 s into what is left of the video, of which 0.5 s remain: 8 frames, of which Wan takes 5.
    assert "whole.mp4: 5 frames of 256 x 256, 0.75 s to 1.00 s" in server.run(graph).outputs["text"]["text"][0]


def test_every_graph_has_its_picture_and_its_api_form():
    for path in (PACK / "workflows").glob("*.json"):
        assert path.with_suffix(".jpg").is_file() and (path.parent / "api" / path.name).is_file()
