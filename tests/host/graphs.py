"""The packaged graphs in API form, and small changes to them."""

from __future__ import annotations

import copy
import json
from typing import Any

from .comfyui import PACK, Graph

GRAPHS = sorted((PACK / "workflows").glob("*.json"))


def api(name: str) -> Graph:
    """A packaged graph in API form."""
    return json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))


DEMO = api("slotid_demo")

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


def of_type(graph: Graph, *types: str) -> dict[str, dict[str, Any]]:
    """Inputs of the nodes of these types, by node id."""
    return {node: found["inputs"] for node, found in graph.items() if found["class_type"] in types}


def shortened(graph: Graph, steps: int = 2) -> Graph:
    """The graph with few steps; of two samplers that share them, each has half."""
    graph = copy.deepcopy(graph)
    for inputs in of_type(graph, "KSampler", "BasicScheduler", "KSamplerAdvanced").values():
        half = inputs["steps"] // 2
        inputs["steps"] = steps
        for bound in ("start_at_step", "end_at_step"):
            if inputs.get(bound) == half:
                inputs[bound] = steps // 2
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
