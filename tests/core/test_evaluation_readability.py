"""The readability gate: what a probe can read is what the codes hold."""

import json
import math

import pytest
import torch

from slotid_core import checkpoint
from slotid_core.demo.clips import reference_clips
from slotid_core.demo.people import MARKS, PARAMETERS, TEST, TRAIN, people
from slotid_core.demo.wan_vae import WanVAE
from slotid_core.errors import SlotIDError
from slotid_core.evaluation import readability as r
from slotid_core.evaluation.targets import HUES, KINDS, NUMERIC, standardised
from slotid_core.training.data import Entry, StoreWriter


def perfect(seeds):
    """What a probe that knows everything would answer: numbers [N, 24], hues [N, 4, 2], kinds [N, 2, 3]."""
    who = people(seeds)
    numeric = torch.stack([standardised(name, who[name]) for name in NUMERIC], -1)
    angles = 2 * math.pi * torch.stack([who[name] for name in HUES], -1)
    kinds = torch.stack([torch.nn.functional.one_hot(who[name].long(), len(MARKS)) for name in KINDS], 1).float()
    return numeric, torch.stack([angles.sin(), angles.cos()], -1), kinds


def test_knowing_all_scores_one_and_knowing_nothing_nought():
    seeds = list(TEST[:200])
    known = r._scores(*perfect(seeds), seeds)
    assert len(known) == len(PARAMETERS) - 4 + 2 and min(known.values()) > 0.999
    numeric, hues, kinds = perfect(seeds)
    guess = r._scores(torch.zeros_like(numeric), hues.roll(1, 0), kinds.roll(1, 0), seeds)
    assert all(-0.05 < guess[name] <= 0 for name in NUMERIC)
    assert all(abs(guess[name]) < 0.2 for name in ("hair_hue", "eye_hue"))
    assert abs(guess["mark kind"] - 1 / 3) < 0.1 and abs(guess["mark hue"] - 0.2) < 0.1


def test_fidelity_of_a_vae(monkeypatch):
    monkeypatch.setattr(r, "PSNR_PEOPLE", 2)
    monkeypatch.setattr(r, "encode_clips", lambda vae, frames: frames)
    monkeypatch.setattr(r, "decode_clips", lambda vae, frames: ((frames * 255) + 5).round())
    found = r.fidelity(WanVAE(8), 16)
    # Five of 255 off everywhere: 34.15 dB, with a little rounding.
    for kind in ("target", "target, worst frame", "reference", "reference, worst frame"):
        assert found.psnr[kind] == pytest.approx(-20 * math.log10(5 / 255), abs=0.1)
    assert found.picture.ndim == 3 and found.picture.shape[2] == 3


def test_the_gate_is_measured_resumed_and_written(tmp_path, monkeypatch):
    for name, value in {
        "PEOPLE": 4, "HELD_OUT": 8, "PART": 4, "STEPS": 4, "BATCH": 4, "PSNR_PEOPLE": 2, "SIZES": (64,),
    }.items():  # fmt: skip
        monkeypatch.setattr(r, name, value)
    vae = tmp_path / "vae.safetensors"
    torch.manual_seed(0)
    checkpoint.write(vae, WanVAE(8).state_dict(), {})
    path = r.write_readability(vae, tmp_path / "results", tmp_path / "images", tmp_path / "work")
    data = json.loads(path.read_text())
    assert set(data["latents"]) == {*NUMERIC, "hair_hue", "eye_hue", "mark kind", "mark hue"}
    assert set(data["psnr"]["64"]) == {"target", "target, worst frame", "reference", "reference, worst frame"}
    assert data["pictures"] == ["evaluation_vae_64.png"] and (tmp_path / "images" / "evaluation_vae_64.png").is_file()
    before = path.read_bytes()

    def held_out_only(seeds, **options):
        assert seeds[0] in TEST, "the latents to learn from were there already"
        return reference_clips(seeds, **options)

    monkeypatch.setattr(r, "reference_clips", held_out_only)
    assert r.write_readability(vae, tmp_path / "results", tmp_path / "images", tmp_path / "work").read_bytes() == before


def test_the_training_store_serves_in_place_of_new_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(r, "HELD_OUT", 8)
    vae, store = tmp_path / "vae.safetensors", tmp_path / "store"
    torch.manual_seed(0)
    checkpoint.write(vae, WanVAE(8).state_dict(), {})
    with pytest.raises(SlotIDError, match="no store of the demo world"):
        r.readability(vae, tmp_path / "work", 2, 0, store)
    writer = StoreWriter(store, {"source": "demo world", "vae": checkpoint.file_sha256(vae)}, 4)
    seeds = [TRAIN[5], TRAIN[2]]
    latents = torch.randn(2, 16, 9, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    writer.add("reference", [Entry(str(seed), "reference 0", 33, "demo world") for seed in seeds], {"latents": latents})
    writer.add(
        "target", [Entry(str(seed), "target 0", 17, "demo world") for seed in seeds],
        {"latents": latents, "text": torch.zeros(2, dtype=torch.long)},
    )  # fmt: skip
    writer.number_texts([], lambda text: torch.zeros(1, 8))
    known, whose = r._stored(store, vae)
    assert torch.equal(known, latents) and whose == seeds
    scores, count = r.readability(vae, tmp_path / "work", 2, 0, store)
    assert count == 2 and len(scores) == 28
    checkpoint.write(vae, WanVAE(8).state_dict(), {"other": "file"})
    with pytest.raises(SlotIDError, match="no store of the demo world"):
        r.readability(vae, tmp_path / "work", 2, 0, store)
