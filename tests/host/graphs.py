"""The packaged graphs in API form, and small changes to them."""

from __future__ import annotations

import copy
import json
from typing import Any

from .comfyui import PACK, Graph

DEMO: Graph = json.loads((PACK / "workflows" / "api" / "slotid_demo.json").read_text())

# Node ids of the demo graph.
LOAD, FACE, VAE, MODEL, ENCODE, UNET, APPLY, PROMPT, LATENT, SAMPLER, DECODE, CREATE, SAVE = map(str, range(1, 14))
REPORT = "14"


def demo(changes: dict[str, dict[str, Any]] | None = None) -> Graph:
    """The demo graph with some inputs changed: {node id: {input: value}}."""
    return changed(DEMO, changes or {})


def changed(graph: Graph, changes: dict[str, dict[str, Any]]) -> Graph:
    graph = copy.deepcopy(graph)
    for node, inputs in changes.items():
        graph[node]["inputs"].update(inputs)
    return graph


def without(graph: Graph, *nodes: str) -> Graph:
    return {node: graph[node] for node in graph if node not in nodes}


def latents_only(changes: dict[str, dict[str, Any]] | None = None) -> Graph:
    """The demo graph up to its latents, from an identity file, on the tests' own weights: runs on every host."""
    graph = without(demo(), LOAD, FACE, VAE, ENCODE, DECODE, CREATE, SAVE, REPORT)
    graph["identity"] = {"class_type": "SlotIDLoadIdentity", "inputs": {"file": "one.safetensors"}}
    graph["latents"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": [SAMPLER, 0], "filename_prefix": "latents/test"},
    }
    own = {
        APPLY: {"identity": ["identity", 0]},
        MODEL: {"file": "test.safetensors"},
        UNET: {"unet_name": "test_dit.safetensors"},
        SAMPLER: {"steps": 3},
    }
    return changed(changed(graph, own), changes or {})
