"""The nodes around an identity that do not sample: doctor, preview, merge, blend, save, load, likeness."""

import json

import pytest
import torch

from slotid_core.identity import Identity
from slotid_core.merging import merge_identities

from .comfyui import NodeFailedError
from .graphs import ENCODE, FACE, LOAD, MODEL, VAE, demo


def load(name, **more):
    return {"class_type": "SlotIDLoadIdentity", "inputs": {"file": f"{name}.safetensors", **more}}


def shown(result, node):
    output = result.outputs[node]
    assert output["images"], "a picture is seen on the node"
    return output["text"][0]


def saved(server, name):
    return Identity.load(server.base / "models" / "slot_id" / "identities" / f"{name}.safetensors")


def test_two_clips_merge_into_one_file(server):
    graph = {
        "a": load("one"),
        "b": load("two"),
        "merge": {"class_type": "SlotIDMergeIdentities", "inputs": {"identity_1": ["a", 0], "identity_2": ["b", 0]}},
        "save": {
            "class_type": "SlotIDSaveIdentity",
            "inputs": {"identity": ["merge", 0], "name": "merged", "overwrite": True, "consent": "both agreed"},
        },
    }
    result = server.run(graph)
    assert "Merged from 2 clips of one person:" in shown(result, "merge")
    assert "Saved" in shown(result, "save")
    identity = saved(server, "merged")
    expected = merge_identities([saved(server, "one"), saved(server, "two")])
    assert torch.allclose(identity.tokens, expected.tokens, atol=1e-6)
    assert identity.coverage["parts"] == expected.coverage["parts"]
    assert identity.consent == "both agreed"
    text = {"class_type": "PreviewAny", "inputs": {"source": ["again", 2]}}
    loaded = server.run({"again": load("merged"), "text": text})
    assert "both agreed" in shown(loaded, "again"), "Load shows who it is"


def test_two_people_blend(server):
    inputs = {"identity_1": ["a", 0], "identity_2": ["b", 0], "share": 0.25}
    graph = {"a": load("one"), "b": load("two"), "blend": {"class_type": "SlotIDBlendIdentities", "inputs": inputs}}
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["blend", 1]}}
    result = server.run(graph)
    assert "- 75% slotid_demo" in shown(result, "blend")


def test_load_refuses_an_identity_of_another_model_with_both_names(server):
    graph = {
        "model": {"class_type": "SlotIDLoadModel", "inputs": {"file": "slotid_demo.safetensors"}},
        "identity": load("one", slotid_model=["model", 0]),
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["identity", 2]}},
    }
    with pytest.raises(NodeFailedError) as caught:
        server.run(graph)
    assert "test.safetensors" in caught.value.message and "slotid_demo.safetensors" in caught.value.message


def test_the_doctor_and_the_preview_run_with_the_demo(server, small_vae):
    graph = {node: demo()[node] for node in (LOAD, FACE, VAE, MODEL, ENCODE)}
    graph[FACE]["inputs"]["keep_frames"] = 9
    graph["preview"] = {"class_type": "SlotIDRoutingPreview", "inputs": {"routing_plan": [ENCODE, 2]}}
    for name, place in (("overlay", 0), ("slots", 1)):
        inputs = {"images": ["preview", place], "filename_prefix": name}
        graph[name] = {"class_type": "SaveImage", "inputs": inputs}
    graph["save"] = {
        "class_type": "SlotIDSaveIdentity",
        "inputs": {"identity": [ENCODE, 0], "name": "kept", "overwrite": True},
    }
    result = server.run(graph)
    assert "9 frames kept, 24 left out:" in shown(result, FACE)
    assert "Dustbin:" in shown(result, "preview")
    assert len(result.outputs["overlay"]["images"]) == len(result.outputs["slots"]["images"]) == 3
    identity = saved(server, "kept")
    assert len(identity.frames_used) == 9 and identity.routing is not None
    assert identity.coverage["left_out"]["not needed"]


def test_likeness_says_what_it_lacks(server):
    """Without dlib the command that installs it; with it, that a drawing is no face."""
    graph = {
        LOAD: demo()[LOAD],
        "likeness": {
            "class_type": "SlotIDLikeness",
            "inputs": {
                "images": [LOAD, 1],
                "reference": [LOAD, 0],
                "meter": "dlib (free for any use)",
                "samples": 2,
                "curricularface": "none",
            },
        },
    }
    with pytest.raises(NodeFailedError) as caught:
        server.run(graph)
    assert "pip install dlib-bin" in caught.value.message or "no face in any of the 2" in caught.value.message
    graph["likeness"]["inputs"]["meter"] = "FaceSim-Cur (insightface, non-commercial)"
    with pytest.raises(NodeFailedError) as caught:
        server.run(graph)
    assert "no weights of CurricularFace" in caught.value.message


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_told_in_its_language(server, language):
    if server.status("/i18n") != 200:
        pytest.skip("this ComfyUI serves no translations")
    told = server.get("/i18n")[language]["nodeDefs"]
    assert {"SlotIDApply", "SlotIDLikeness", "SlotIDPrepareFace"} <= told.keys()
    assert json.dumps(told["SlotIDApply"]["inputs"]["strength"])
