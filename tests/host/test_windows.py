"""Long videos on the demo weights: who is seen with the host's context windows, and whether their borders show.

Ten held-out people, two videos of 49 frames each, from the same prompts and noise whole, in windows, and in windows of
the unpatched model; the settings are those of the packaged graph. The demo's video model was trained on 17 frames, and
49 at once are a little beyond it (faces flicker, and likeness is lower than in windows, which are 17 frames each). So
the bars are one-sided: in windows nothing may be lost. Run with -s for the figures.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from slotid_core.demo.clips import reference_clips
from slotid_core.demo.files import demo_files
from slotid_core.demo.people import TEST, people
from slotid_core.demo.prompts import embed_empty
from slotid_core.demo.store import load_vae
from slotid_core.evaluation.bootstrap import Bootstrap, Group
from slotid_core.evaluation.conditions import Condition
from slotid_core.evaluation.design import REFERENCE_TAKE, Design
from slotid_core.evaluation.measures import counted, looks
from slotid_core.evaluation.merged import Hits, gallery, read_identities
from slotid_core.evaluation.metrics import mean_of
from slotid_core.evaluation.networks import FRAMES
from slotid_core.evaluation.probe import embed_videos, load_embedding, load_probe
from slotid_core.evaluation.sampling import decode_clips, noise_of, text_of
from slotid_core.evaluation.targets import SIDES
from slotid_core.model import SlotID

from . import graphs
from .comfyui import PACK, comfyui_python

GRAPH = graphs.api("slotid_long_video")
DESIGN = Design(TEST.start + 200, 10)
PROMPTS = 2
# Latent frames of a window, and by how many it moves on, of 17 and 8 real frames, as both hosts count them.
WINDOW, STEP = 5, 3


def node(kind):
    (inputs,) = graphs.of_type(GRAPH, kind).values()
    return {name: value for name, value in inputs.items() if not isinstance(value, list)}


LATENT_FRAMES = (node("EmptyHunyuanLatentVideo")["length"] - 1) // 4 + 1
# Two of the five prompts of a person, so that all poses and expressions are met equally often over five people.
ASKED = [DESIGN.prompts(i)[n % 5] for i in range(DESIGN.people) for n in (i, i + 2)]
PERSON = np.repeat(DESIGN.seeds, PROMPTS)


@pytest.fixture(scope="module")
def videos(comfyui, tmp_path_factory):
    """Frames [people * prompts, T, 64, 64, 3] uint8 by "whole", "windows" and "unpatched", in windows too."""
    folder = tmp_path_factory.mktemp("windows")
    files = demo_files()
    vae, model = load_vae(files.vae), SlotID.load(files.slot_id)
    clips = reference_clips(DESIGN.seeds, REFERENCE_TAKE)
    for number, identity in enumerate(read_identities(model, vae, clips.frames)):
        identity.save(folder / f"identity{number}.safetensors")
    noise = noise_of([(s, number) for s in DESIGN.seeds for number in range(PROMPTS)], (16, LATENT_FRAMES, 8, 8))
    inputs = {"text": text_of(ASKED), "noise": noise}
    inputs = {name: rows.unflatten(0, (-1, PROMPTS)) for name, rows in inputs.items()} | {"empty": embed_empty()[None]}
    save_file(inputs, folder / "inputs.safetensors")
    settings = {**node("KSampler"), "windows": node("WanContextWindowsManual")}
    (folder / "settings.json").write_text(json.dumps(settings))
    script, out = Path(__file__).with_name("probe_windows.py"), folder / "latents.safetensors"
    command = [comfyui_python(), script, comfyui, PACK, files.diffusion_model, files.slot_id, out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: decode_clips(vae, latents.flatten(0, 1)) for name, latents in load_file(out).items()}


@pytest.fixture(scope="module")
def figures(videos):
    """Who is seen, and how much the borders of windows show, by the names of `videos`."""
    probe, embedding = load_probe(), load_embedding()
    own = gallery(embedding, reference_clips(DESIGN.seeds, REFERENCE_TAKE)).repeat_interleave(PROMPTS, 0)
    made = {}
    for name, frames in videos.items():
        # The probe reads seventeen frames at a time.
        pieces = frames.unfold(1, FRAMES, FRAMES - 1).movedim(-1, 2).flatten(0, 1)
        person, poses = (np.repeat(each, len(pieces) // len(frames)) for each in (PERSON, [p.pose for p in ASKED]))
        reading = probe.read(pieces)
        hits = Hits.of([reading], person, poses)
        right, counts = (np.concatenate([of[side, "kind"] for side in SIDES]) for of in (hits.right, hits.counts))
        made[name] = {
            "likeness": (mean_of((embed_videos(embedding, frames) * own).sum(-1).numpy()), of_person(PERSON)),
            "looks": (seen_looks(reading, person), of_person(person)),
            "marks": (counted(mean_of(right), counts), of_person(np.tile(person, len(SIDES)))),
            **{what: (mean_of(each.numpy()), of_person(PERSON)) for what, each in jumps(frames).items()},
        }
    bootstrap = Bootstrap(PERSON)
    estimates = {name: {what: bootstrap.estimate(*of) for what, of in each.items()} for name, each in made.items()}
    print()
    for name, found in estimates.items():
        print(f"{name:10}", *(f"{what} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for what, e in found.items()))
    values = {name: {what: estimate.value for what, estimate in each.items()} for name, each in estimates.items()}
    more = (jumps(videos["windows"])["times"] - jumps(videos["unpatched"])["times"]).numpy()
    values["more times"] = bootstrap.estimate(mean_of(more), of_person(PERSON))
    return values


def of_person(person):
    return Group(person, np.zeros_like(person))


def seen_looks(reading, person):
    """Mean R^2 of all looks but the marks."""
    true = {name: value.numpy() for name, value in people(person.tolist()).values.items()}
    read = {name: value.numpy() for name, value in reading.numbers.items()}
    return looks(Condition("full", read, true, of_person(person), ()))


def jumps(frames):
    """The largest difference of neighbouring frames where a window begins or ends, elsewhere, and the one as a multiple
    of the other: [N] each, of 255."""
    change = frames.float().diff(dim=1).abs().mean((2, 3, 4))
    starts = [min(start, LATENT_FRAMES - WINDOW) for start in range(0, LATENT_FRAMES - WINDOW + STEP, STEP)]
    borders = {*starts[1:], *(start + WINDOW for start in starts[:-1])}
    # Latent frame k > 0 begins with frame 4 k - 3.
    at = torch.zeros(change.shape[1], dtype=torch.bool)
    at[[4 * (border - 1) for border in borders]] = True
    there, elsewhere = (change[:, where].amax(1) for where in (at, ~at))
    return {"at borders": there, "elsewhere": elsewhere, "times": there / elsewhere}


@pytest.mark.parametrize("what", ["likeness", "marks"])
def test_windows_lose_nothing_of_the_person(figures, what):
    """At most 2 % of what the whole video shows; without Slot-ID it is somebody else."""
    assert figures["windows"][what] >= 0.98 * figures["whole"][what]
    assert figures["unpatched"][what] < 0.6 * figures["windows"][what]


def test_windows_lose_nothing_of_the_looks(figures):
    """At most 2 % of the variance between people; of an R^2, which may be anything below 1, there is no share."""
    assert figures["windows"]["looks"] >= figures["whole"]["looks"] - 0.02
    assert figures["unpatched"]["looks"] < 0


def test_borders_of_windows_show_no_more_than_without_slotid(figures):
    assert figures["windows"]["at borders"] <= figures["unpatched"]["at borders"]
    # Beside the jumps elsewhere both are about the same, video by video: more would show beyond chance.
    assert figures["more times"].low <= 0
