"""The measurement on references that are harder than those of training: what the clips show, and the counting.

The figures themselves: `python -m slotid_core.evaluation.harder`.
"""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch

from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.demo.clips import reference_clips
from slotid_core.demo.people import TEST, people
from slotid_core.demo.store import attributes, normalised_parameters
from slotid_core.errors import SlotIDError
from slotid_core.evaluation.harder import (
    CLIPS,
    TAKE,
    Answers,
    Reader,
    bystander,
    clutter,
    explained,
    glance,
    report,
    right_kinds,
)
from slotid_core.training.variants import new_variant

SEEDS = TEST[:4]


def test_the_other_side_is_seen_in_one_latent_frame():
    yaw = torch.rad2deg(glance(SEEDS).tracks.yaw)
    for row, seed in zip(yaw, SEEDS, strict=True):
        # Positive yaw shows the right side; people with even seeds show their left at a glance.
        other = row < 0 if seed % 2 == 0 else row > 0
        shown = other.nonzero()[:, 0].tolist()
        assert len(shown) == 4 and shown == list(range(shown[0], shown[0] + 4))
        assert shown[0] % 4 == 1 and 4 < shown[0] < 29
        assert row.abs().min() > 54


@pytest.mark.parametrize("make", [clutter, bystander])
def test_the_person_stays_and_the_background_changes(make):
    usual, harder = reference_clips(SEEDS, TAKE), make(SEEDS)
    changed = (usual.frames - harder.frames).abs().amax(-1)
    face = changed[:, :, 24:40, 28:36][~usual.spoiled]
    assert face.max() < 1e-5
    corner = changed[:, :, :6].amax((1, 2, 3))
    assert corner.min() > 0.05
    assert torch.equal(usual.spoiled, harder.spoiled)
    assert harder.frames.min() > -1e-5 and harder.frames.max() < 1 + 1e-5


def test_patterns_move():
    frames = clutter(SEEDS).frames
    assert (frames[:, 0, :4] != frames[:, -1, :4]).float().mean() > 0.3


@pytest.mark.parametrize("kind", CLIPS)
def test_clips_are_the_same_alone_and_in_company(kind):
    alone, together = CLIPS[kind](SEEDS[1:2]).frames, CLIPS[kind](SEEDS[:2]).frames
    assert torch.equal(alone[0], together[1])


def test_truth_explains_everything_and_the_mean_nothing():
    who = people(TEST[:500])
    truth = attributes(normalised_parameters(who))
    assert np.allclose(explained(truth, who), 1)
    assert explained(torch.zeros_like(truth), who).mean() == pytest.approx(0, abs=0.05)
    for side in ("left", "right"):
        assert right_kinds(truth, who, side).all()
        assert right_kinds(truth.roll(1, 0), who, side).mean() == pytest.approx(1 / 3, abs=0.08)


def answers(full, other):
    """Of two encoders, in one kind of clip."""
    values = {("full", 0, "a bystander"): np.array(full), ("sinkhorn", 0, "a bystander"): np.array(other)}
    return Answers(np.arange(len(full)), (("sinkhorn", 0), ("full", 0)), values, values)


def test_report_puts_full_first_and_compares_on_the_same_people():
    rng = np.random.default_rng(0)
    full = rng.normal(0.5, 0.3, 200)
    lines = report(answers(full, full - 0.1), ["a bystander"]).split("\n")
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:5]] == [
        "full: Sinkhorn + GRU + dustbin",
        "Sinkhorn slots, no GRU",
        "full minus Sinkhorn slots, no GRU",
    ]
    # The people differ by far more than the encoders do: only a paired interval is this narrow.
    assert lines[4].endswith("0.10 [0.10, 0.10] |")


def write_run(folder, name, *, readout=True):
    config = SlotIDConfig(
        encoder=EncoderConfig(width=32, depth=1, heads=2, slots=4, crop_size=64),
        conditioning=ConditioningConfig(inner_width=16, heads=2),
        backbone=Backbone("wan2.1", 32, 2),
        identity_width=32,
    )
    model = new_variant(name, config, 0)
    (folder / "checkpoints").mkdir(parents=True)
    metadata = {
        "format": "slot-id-variant",
        "format_version": "1",
        "variant": name,
        "config": json.dumps(config.to_dict()),
    }
    safetensors.torch.save_file(model.state_dict(), folder / "slotid.safetensors", metadata)
    learned = {"readout.weight": torch.randn(38, 2 * 4 * 32), "readout.bias": torch.randn(38)} if readout else {}
    safetensors.torch.save_file(
        {f"average/{name}": tensor for name, tensor in {**learned, "encoder.x": torch.zeros(1)}.items()},
        folder / "checkpoints" / "step_00000001.safetensors",
        {"step": "1", "scaler": "{}"},
    )
    return model, learned


def test_a_run_is_read_as_in_training(tmp_path):
    model, learned = write_run(tmp_path / "run", "sinkhorn")
    latents = torch.randn(3, 16, 9, 8, 8)
    reader = Reader.load(tmp_path / "run")
    tokens = model.encoder(latents)[0].detach()
    unit = (tokens - tokens.mean(-1, keepdim=True)) / tokens.std(-1, keepdim=True, correction=0)
    expected = unit.flatten(1) / math.sqrt(unit[0].numel()) @ learned["readout.weight"].T + learned["readout.bias"]
    assert torch.allclose(reader.read(latents), expected, atol=1e-3)
    assert (reader.variant, reader.seed) == ("sinkhorn", 0)


@pytest.mark.parametrize(("name", "readout"), [("sinkhorn", False), ("frontal", True)])
def test_what_cannot_be_asked_is_told(tmp_path, name, readout):
    write_run(tmp_path / "run", name, readout=readout)
    with pytest.raises(SlotIDError, match=f"'{name}' in .* cannot be asked"):
        Reader.load(tmp_path / "run")


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(SlotIDError, match="0 encoders"):
        Reader.load(tmp_path)
