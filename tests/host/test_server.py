"""The pack in a running ComfyUI: it loads without a word, and the page learns all it needs."""

import json

import pytest

from .comfyui import PACK, PACK_NAME, complaints

NODES = {
    "SlotIDLoadReferenceVideo",
    "SlotIDPrepareFace",
    "SlotIDLoadModel",
    "SlotIDEncodeIdentity",
    "SlotIDSaveIdentity",
    "SlotIDLoadIdentity",
    "SlotIDApply",
    "SlotIDGuider",
    "SlotIDMergeIdentities",
    "SlotIDBlendIdentities",
    "SlotIDRoutingPreview",
    "SlotIDLikeness",
    "SlotIDDemoPrompt",
}


@pytest.fixture(scope="module")
def nodes(server):
    return {name: info for name, info in server.get("/object_info").items() if PACK_NAME in info["python_module"]}


def test_the_pack_loads_without_an_error_or_warning(server):
    loaded = [line for line in server.startup_log.splitlines() if PACK_NAME in line and "seconds" in line]
    assert len(loaded) == 1 and "FAILED" not in loaded[0]
    assert complaints(server.startup_log) == []


def test_every_node_is_there_and_no_other(nodes):
    assert set(nodes) == NODES


@pytest.mark.parametrize("name", sorted(NODES))
def test_every_input_and_output_is_explained(nodes, name):
    info = nodes[name]
    assert info["display_name"].startswith("Slot-ID ") and info["category"].split("/")[0] == "Slot-ID"
    assert len(info["description"]) > 40
    for kind in ("required", "optional"):
        for widget, declared in info["input"].get(kind, {}).items():
            assert declared[1]["tooltip"], widget
    assert len(info["output_tooltips"]) == len(info["output"]) and all(info["output_tooltips"])


@pytest.mark.parametrize("name", sorted(NODES))
def test_every_help_page_is_served(server, nodes, name):
    assert name in server.text(f"/extensions/{PACK_NAME}/docs/{name}.md").replace("Slot-ID ", "SlotID").replace(" ", "")


@pytest.mark.parametrize(
    ("node", "widget", "file"),
    [
        ("UNETLoader", "unet_name", "slotid_demo_wan2.1_dit.safetensors"),
        ("VAELoader", "vae_name", "slotid_demo_wan_vae.safetensors"),
        ("SlotIDLoadModel", "file", "slotid_demo.safetensors"),
        ("SlotIDLoadModel", "file", "test.safetensors"),
        ("SlotIDLoadIdentity", "file", "one.safetensors"),
        ("SlotIDLoadReferenceVideo", "file", "slotid_demo_kim.mp4 [temp]"),
    ],
)
def test_files_are_listed(server, node, widget, file):
    declared = server.get(f"/object_info/{node}")[node]["input"]["required"][widget]
    options = declared[0] if isinstance(declared[0], list) else declared[1]["options"]
    assert file in options


def test_identities_are_not_offered_as_models(nodes):
    declared = nodes["SlotIDLoadModel"]["input"]["required"]["file"]
    assert not [file for file in declared[1]["options"] if "identities" in file]


def test_the_graphs_are_offered_as_templates(server):
    expected = {path.stem for path in (PACK / "workflows").glob("*.json")}
    assert expected and set(server.get("/workflow_templates")[PACK_NAME]) == expected


@pytest.mark.parametrize("graph", sorted((PACK / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_every_graph_fits_the_hosts_nodes(server, graph):
    """Each node is known, takes the inputs it is wired by, and the wires carry what their ends say."""
    known, saved = server.get("/object_info"), json.loads(graph.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in saved["nodes"] if node["type"] not in ("MarkdownNote", "Note")}
    assert {node["type"] for node in nodes.values()} <= known.keys()
    for node in nodes.values():
        declared = known[node["type"]]["input"]
        names = declared.get("required", {}).keys() | declared.get("optional", {}).keys()
        assert {slot["name"] for slot in node["inputs"] if slot["link"] is not None} <= names, node["type"]
    assert saved["links"]
    for _, source, output, target, slot, kind in saved["links"]:
        assert known[nodes[source]["type"]]["output"][output] == kind
        assert nodes[target]["inputs"][slot]["link"] is not None


def test_a_sample_clip_can_be_previewed_before_the_first_run(server):
    """The page asks for what the file widget shows; a miss would be an error in its console."""
    server.get("/object_info/SlotIDLoadReferenceVideo")
    assert server.status("/view?type=input&subfolder=&filename=slotid_demo_kim.mp4%20%5Btemp%5D") == 200
