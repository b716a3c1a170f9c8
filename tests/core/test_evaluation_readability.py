"""The readability gate: what a probe can read is what the codes hold."""

import json
import math
from dataclasses import replace

import pytest
import torch

from slotid_core import checkpoint
from slotid_core.demo.clips import reference_clips, reference_tracks
from slotid_core.demo.files import demo_files
from slotid_core.demo.people import MARKS, PARAMETERS, TEST, TRAIN, people
from slotid_core.demo.store import load_vae
from slotid_core.demo.wan_vae import WanVAE
from slotid_core.evaluation import readability as r
from slotid_core.evaluation.targets import HUES, KINDS, NUMERIC, mixed, standardised

FIDELITIES = {
    "target", "target, worst frame", "reference", "reference, worst frame", "reference, clear",
    "reference, clear, worst frame",
}  # fmt: skip


def perfect(seeds):
    """What a probe that knows everything would answer: numbers [N, 24], hues [N, 4, 2], kinds [N, 2, 3], tracks."""
    who = people(seeds)
    numeric = torch.stack([standardised(name, who[name]) for name in NUMERIC], -1)
    angles = 2 * math.pi * torch.stack([who[name] for name in HUES], -1)
    kinds = torch.stack([torch.nn.functional.one_hot(who[name].long(), len(MARKS)) for name in KINDS], 1).float()
    return numeric, torch.stack([angles.sin(), angles.cos()], -1), kinds, r._truths(*reference_tracks(seeds)).tracks


def test_knowing_all_scores_one_and_knowing_nothing_nought():
    seeds = list(TEST[:200])
    known = r._scores(*perfect(seeds), seeds)
    assert len(known) == len(PARAMETERS) - 4 + 2
    # The rate is what two seconds of blinks tell of it, whatever else is known.
    assert known.pop("blink_rate") > 0.95 and min(known.values()) > 0.999
    numeric, hues, kinds, tracks = perfect(seeds)
    guess = r._scores(torch.zeros_like(numeric), hues.roll(1, 0), kinds.roll(1, 0), tracks.roll(1, 0), seeds)
    assert guess.pop("blink_rate") < 0 and all(-0.05 < guess[name] <= 0 for name in NUMERIC if name in guess)
    assert all(abs(guess[name]) < 0.2 for name in ("hair_hue", "eye_hue"))
    assert abs(guess["mark kind"] - 1 / 3) < 0.1 and abs(guess["mark hue"] - 0.2) < 0.1


def test_the_two_smiles_differ_in_nothing_but_how_lopsided_they_are():
    seeds = list(TRAIN[:3])
    (who, tracks), (other, their) = r._smiling(seeds)
    assert torch.equal(who["smile_asymmetry"], -other["smile_asymmetry"])
    same = set(PARAMETERS) - {"smile_asymmetry"}
    assert all(torch.equal(who[name], other[name]) and torch.equal(who[name], people(seeds)[name]) for name in same)
    assert all(torch.equal(getattr(tracks, name), getattr(their, name)) for name in vars(tracks))
    torch.manual_seed(0)
    latents = r._both_smiles(WanVAE(8).requires_grad_(False), seeds)
    assert latents.shape == (3, 2, 16, 9, 8, 8) and latents.dtype == torch.float16
    # Until the face smiles, with the same bars and blurs in front of it, the clips are the same.
    start = int((tracks.smile[0] > 0).nonzero()[0]) // 4
    assert torch.equal(latents[0, 0, :, :start], latents[0, 1, :, :start])
    assert not torch.equal(latents[0, 0], latents[0, 1])


@pytest.mark.parametrize("lopsided", [-0.8, -0.3, 0.0, 0.5])
def test_a_mix_of_both_smiles_is_as_lopsided_as_the_mixed_numbers_say(lopsided):
    vae, seeds = load_vae(demo_files().vae), list(TRAIN[:4])
    (who, tracks), (other, _) = r._smiling(seeds)

    def latents(value):
        made = replace(who, values={**who.values, "smile_asymmetry": torch.full((len(seeds),), value)})
        return r.encode_clips(vae, r.recorded(made, tracks).frames)

    first, second = r._both_smiles(vae, seeds).float().unbind(1)
    share = (lopsided - who["smile_asymmetry"]) / (other["smile_asymmetry"] - who["smile_asymmetry"])
    error = first.lerp(second, share[:, None, None, None, None]) - latents(lopsided)
    # How the latents change with how lopsided the smile is: along this the mix must not err.
    change = (latents(lopsided + 0.05) - latents(lopsided - 0.05)) / 0.1
    along = (error * change).flatten(1).sum(1) / change.square().flatten(1).sum(1)
    assert along.abs().max() < 0.15
    truth = mixed(r._truths(who, tracks), r._truths(other, tracks), share)
    told = r._truths(replace(who, values={**who.values, "smile_asymmetry": torch.full((4,), lopsided)}), tracks)
    for name, value in vars(told).items():
        torch.testing.assert_close(getattr(truth, name), value)


def test_fidelity_of_a_vae(monkeypatch):
    monkeypatch.setattr(r, "PSNR_PEOPLE", 2)
    monkeypatch.setattr(r, "encode_clips", lambda vae, frames: frames)
    monkeypatch.setattr(r, "decode_clips", lambda vae, frames: ((frames * 255) + 5).round())
    found = r.fidelity(WanVAE(8), 16)
    # Five of 255 off everywhere: 34.15 dB, with a little rounding.
    assert set(found.psnr) == FIDELITIES
    assert all(value == pytest.approx(-20 * math.log10(5 / 255), abs=0.1) for value in found.psnr.values())
    assert found.picture.ndim == 3 and found.picture.shape[2] == 3


def test_frames_beside_spoiled_ones_count_apart(monkeypatch):
    monkeypatch.setattr(r, "PSNR_PEOPLE", 4)
    spoiled = reference_clips(list(TEST[-4:]), size=16).spoiled

    def worse(vae, frames):
        made = frames * 255
        if frames.shape[:2] == spoiled.shape:
            near = spoiled.clone()
            for frame in spoiled.nonzero().tolist():
                first = (frame[1] + 3) // 4 * 4 - 3
                near[frame[0], max(first, 0) : first + 4] = True
            made = torch.where(near[..., None, None, None], 255 - made, made + 5)
        return made.round()

    monkeypatch.setattr(r, "encode_clips", lambda vae, frames: frames)
    monkeypatch.setattr(r, "decode_clips", worse)
    found = r.fidelity(WanVAE(8), 16).psnr
    assert found["reference, clear"] == pytest.approx(-20 * math.log10(5 / 255), abs=0.1)
    assert found["reference"] < 20 < found["reference, clear, worst frame"]
    assert found["reference, worst frame"] < found["reference"]


def test_the_gate_is_measured_resumed_and_written(tmp_path, monkeypatch):
    for name, value in {
        "PEOPLE": 4, "HELD_OUT": 8, "PART": 4, "STEPS": 4, "BATCH": 3, "PSNR_PEOPLE": 2, "SIZES": (64,),
    }.items():  # fmt: skip
        monkeypatch.setattr(r, name, value)
    vae = tmp_path / "vae.safetensors"
    torch.manual_seed(0)
    checkpoint.write(vae, WanVAE(8).state_dict(), {})
    path = r.write_readability(vae, tmp_path / "results", tmp_path / "images", tmp_path / "work")
    data = json.loads(path.read_text())
    assert set(data["latents"]) == {*NUMERIC, "hair_hue", "eye_hue", "mark kind", "mark hue"}
    assert set(data["psnr"]["64"]) == FIDELITIES
    assert data["pictures"] == ["evaluation_vae_64.png"] and (tmp_path / "images" / "evaluation_vae_64.png").is_file()
    before = path.read_bytes()

    def drawn_again(*arguments):
        raise AssertionError("the latents to learn from were there already")

    monkeypatch.setattr(r, "_both_smiles", drawn_again)
    assert r.write_readability(vae, tmp_path / "results", tmp_path / "images", tmp_path / "work").read_bytes() == before
