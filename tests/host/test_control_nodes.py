"""Apply with masks and presets, the Guider and context windows through /prompt, as a page would send them."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from slotid_core.demo.files import demo_files

from .graphs import (
    APPLY,
    CREATE,
    DECODE,
    ENCODE,
    FACE,
    LATENT,
    LOAD,
    MODEL,
    PROMPT,
    SAMPLER,
    SAVE,
    UNET,
    changed,
    demo,
    latents_only,
    without,
)

# One step, and only the last of the model's three blocks: each part of the latents is then what was put there.
LOCAL = {SAMPLER: {"steps": 1, "cfg": 1.0}, APPLY: {"first_block": 2}}
SECOND = "second"


def run(server, graph):
    """The latents of a graph, and the report of its last Apply."""
    server.forget()
    result = server.run(graph)
    (saved,) = result.outputs["latents"]["latents"]
    apply = SECOND if SECOND in graph else APPLY
    report = result.outputs[apply]["text"][0] if apply in graph else ""
    return load_file(server.file(saved))["latent_tensor"], report


def with_masks(graph):
    """Masks of the left and of the right half, as nodes of their own."""
    graph["empty"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}
    graph["half"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 32, "height": 64}}
    for name, x in (("left", 0), ("right", 32)):
        put = {"destination": ["empty", 0], "source": ["half", 0], "x": x, "y": 0, "operation": "add"}
        graph[name] = {"class_type": "MaskComposite", "inputs": put}
    return graph


def two_people(first, second):
    """Identity one in the mask `first`, identity two in the mask `second`."""
    graph = with_masks(latents_only(LOCAL))
    graph["two"] = {"class_type": "SlotIDLoadIdentity", "inputs": {"file": "two.safetensors"}}
    graph[SECOND] = {"class_type": "SlotIDApply", "inputs": {**graph[APPLY]["inputs"], "model": [APPLY, 0]}}
    graph[APPLY]["inputs"]["mask"] = [first, 0]
    return changed(graph, {SECOND: {"identity": ["two", 0], "mask": [second, 0]}, SAMPLER: {"model": [SECOND, 0]}})


def alone(name):
    return latents_only({**LOCAL, "identity": {"file": f"{name}.safetensors"}})


def test_two_people_each_in_a_mask_and_swapped(server):
    one, two = (run(server, alone(name))[0] for name in ("one", "two"))
    assert (one - two).abs().max() > 1e-3
    both, report = run(server, two_people("left", "right"))
    swapped, _ = run(server, two_people("right", "left"))
    half = one.shape[-1] // 2
    for made, left, right in ((both, one, two), (swapped, two, one)):
        torch.testing.assert_close(made, torch.cat([left[..., :half], right[..., half:]], -1), atol=1e-4, rtol=1e-4)
    assert "Person 1 of 2: slotid_demo" in report and "Person 2 of 2: slotid_demo" in report
    assert report.count("mask: 50% of the picture, still") == 2 and "both act" not in report


def test_the_report_tells_of_people_who_share_a_place(server):
    graph = two_people("left", "right")
    del graph[SECOND]["inputs"]["mask"]
    _, report = run(server, graph)
    assert "Persons 1 and 2 both act in 100% of the smaller mask" in report


def test_the_report_says_what_will_happen(server):
    graph = latents_only({APPLY: {"strength": 0.8, "start_percent": 0.5, "last_block": 1, "dynamics": 0.5}})
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": [APPLY, 1]}}
    server.forget()
    result = server.run(graph)
    report = result.outputs[APPLY]["text"][0]
    assert result.outputs["text"]["text"][0] == report
    assert report.splitlines()[1:] == [
        "- strength 0.8, appearance 1, dynamics 0.5",
        "- blocks: 2 of 3 (blocks 0 to 1, counted from 0)",
        "- steps: 50% to 100% of the sampling (steps 11 to 20 of 20)",
        "- mask: none, the whole picture",
    ]
    assert "acts in 1 of this sampler's 3 steps" in server.log()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"strength": 0.0}, "strength is 0"),
        ({"strength": 0.0, "preset": "strong likeness"}, "strength is 0"),
        ({"appearance": 0.0, "dynamics": 0.0}, "appearance and dynamics are both 0"),
        ({"mask": ["empty", 0]}, "the mask is empty"),
        ({"first_block": 40}, "none of the blocks that can carry an identity (0, 1, 2) lies in the range"),
    ],
)
def test_what_changes_nothing_says_so_and_is_the_model_itself(server, setting, reason):
    plain = without(latents_only({SAMPLER: {"model": [UNET, 0]}}), APPLY, MODEL, "identity")
    before = len(server.log())
    made, report = run(server, with_masks(latents_only({APPLY: setting})))
    assert f"Nothing changes here: {reason}." in report
    assert reason in server.log()[before:]
    assert torch.equal(made, run(server, plain)[0])


def test_a_preset_is_its_settings(server):
    by_preset, report = run(server, latents_only({APPLY: {"preset": "motion only", "strength": 2.0}}))
    assert report.startswith("Preset motion only: appearance 0.")
    assert torch.equal(by_preset, run(server, latents_only({APPLY: {"appearance": 0.0}}))[0])
    assert not torch.equal(by_preset, run(server, latents_only())[0])


def custom_sampling(guider, **more):
    """The graph with SamplerCustomAdvanced and a guider in the place of KSampler."""
    graph = latents_only()
    prompts = {"model": [APPLY, 0], "positive": [PROMPT, 0], "negative": [PROMPT, 1]}
    graph["guider"] = {"class_type": guider, "inputs": {**prompts, "cfg": 3.0, **more}}
    graph["noise"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}}
    graph["euler"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    schedule = {"model": [APPLY, 0], "scheduler": "simple", "steps": 3, "denoise": 1.0}
    graph["sigmas"] = {"class_type": "BasicScheduler", "inputs": schedule}
    wires = {name: [name, 0] for name in ("noise", "guider", "sigmas")}
    wires |= {"sampler": ["euler", 0], "latent_image": [LATENT, 0]}
    graph[SAMPLER] = {"class_type": "SamplerCustomAdvanced", "inputs": wires}
    return graph


def test_the_guider_at_1_is_cfg_and_beyond_it_is_not(server):
    stock = run(server, custom_sampling("CFGGuider"))[0]
    at_1, at_2 = (run(server, custom_sampling("SlotIDGuider", identity_cfg=scale))[0] for scale in (1.0, 2.0))
    assert torch.equal(stock, at_1) and torch.isfinite(at_2).all()
    assert (at_2 - at_1).abs().max() > 1e-3


def test_the_guider_says_what_it_asks(server):
    server.forget()
    outputs = server.run(custom_sampling("SlotIDGuider", identity_cfg=2.0)).outputs
    assert outputs["guider"]["text"][0].startswith("3 answers of the model in each step")
    graph = custom_sampling("SlotIDGuider", identity_cfg=2.0)
    graph["guider"]["inputs"]["model"] = [UNET, 0]
    assert "no identity in this model" in server.run(graph).outputs["guider"]["text"][0]


def context_windows(server, node, **settings):
    """A node of ComfyUI's context windows, static ones, with its usual settings where the host has them."""
    known = server.get(f"/object_info/{node}")[node]["input"]["required"]
    usual = {name: spec[1]["default"] for name, spec in known.items() if len(spec) > 1 and "default" in spec[1]}
    listed = {name: spec[0][0] for name, spec in known.items() if isinstance(spec[0], list)}
    changed = {"context_schedule": "standard_static", "freenoise": False, "causal_window_fix": False, **settings}
    changed = {name: value for name, value in changed.items() if name in known}
    return {"class_type": node, "inputs": {**listed, **usual, **changed}}


def windowed(server, graph, first):
    """The graph with context windows of 3 latent frames before or after Apply."""
    settings = {"model": [UNET, 0], "context_length": 9, "context_overlap": 4}
    graph["windows"] = context_windows(server, "WanContextWindowsManual", **settings)
    if first:
        graph[APPLY]["inputs"]["model"] = ["windows", 0]
    else:
        graph["windows"]["inputs"]["model"] = [APPLY, 0]
        graph[SAMPLER]["inputs"]["model"] = ["windows", 0]
    return graph


def test_a_moving_mask_under_context_windows(server):
    """A mask for each frame, from a clip's own pixels, on 5 latent frames in windows of 3; in either order of nodes."""
    runs = {}
    for mask in (False, True):
        for first in (False, True):
            graph = windowed(server, latents_only({LATENT: {"length": 17}, SAMPLER: {"steps": 2}}), first)
            if mask:
                graph[LOAD] = {**demo()[LOAD], "inputs": {**demo()[LOAD]["inputs"], "frames": 17}}
                graph["mask"] = {"class_type": "ImageToMask", "inputs": {"image": [LOAD, 1], "channel": "red"}}
                graph[APPLY]["inputs"]["mask"] = ["mask", 0]
            runs[mask, first], report = run(server, graph)
            assert ("of the picture, 17 frames" in report) is mask
    for mask in (False, True):
        torch.testing.assert_close(runs[mask, False], runs[mask, True], atol=1e-4, rtol=1e-4)
    assert runs[True, True].shape[2] == 5 and torch.isfinite(runs[True, True]).all()
    assert (runs[True, True] - runs[False, True]).abs().max() > 1e-3
    assert "Using context windows" in server.log()


def demo_pair(server, masks):
    """The demo graph with two sample clips in one frame of two heads, which the demo model makes in two windows."""
    graph = with_masks(demo({LATENT: {"width": 112}, SAMPLER: {"steps": 6}}))
    graph["empty"]["inputs"]["width"], graph["half"]["inputs"]["width"] = 112, 56
    graph["right"]["inputs"]["x"] = 56
    for node in (LOAD, FACE, ENCODE):
        wires = {
            name: [f"{at[0]}b", at[1]] for name, at in graph[node]["inputs"].items() if at in ([LOAD, 0], [FACE, 0])
        }
        graph[f"{node}b"] = {**graph[node], "inputs": {**graph[node]["inputs"], **wires}}
    graph[f"{LOAD}b"]["inputs"]["file"] = f"{demo_files().clips[1].name} [temp]"
    second = {**graph[APPLY]["inputs"], "model": [APPLY, 0], "identity": [f"{ENCODE}b", 0], "mask": [masks[1], 0]}
    graph[SECOND] = {"class_type": "SlotIDApply", "inputs": second}
    graph[APPLY]["inputs"]["mask"] = [masks[0], 0]
    over_width = {"model": [SECOND, 0], "context_length": 8, "context_overlap": 2, "dim": 4}
    graph["windows"] = context_windows(server, "ContextWindowsManual", **over_width)
    graph["frames"] = {"class_type": "SaveImage", "inputs": {"images": [DECODE, 0], "filename_prefix": "pair"}}
    return without(changed(graph, {SAMPLER: {"model": ["windows", 0]}}), CREATE, SAVE)


def test_two_people_on_the_demo_models(server, small_vae):
    made = []
    for masks in (("left", "right"), ("right", "left")):
        images = server.run(demo_pair(server, masks)).outputs["frames"]["images"]
        files = [server.file(image) for image in images]
        made.append(np.stack([np.asarray(Image.open(file).convert("RGB"), dtype=float) for file in files]))
    assert made[0].shape == (17, 64, 112, 3)
    # In levels of 255: other people in both halves.
    for half in (slice(0, 56), slice(56, 112)):
        assert np.abs(made[0] - made[1])[:, :, half].mean() > 4
