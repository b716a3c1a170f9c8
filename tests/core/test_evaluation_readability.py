"""The readability gate: what a probe can read is what the codes hold."""

import json
import math

import pytest
import safetensors.torch
import torch

from slotid_core import checkpoint
from slotid_core.demo.clips import reference_clips, reference_tracks
from slotid_core.demo.people import MARKS, PARAMETERS, TEST, TRAIN, people
from slotid_core.demo.wan_vae import WanVAE
from slotid_core.errors import SlotIDError
from slotid_core.evaluation import readability as r
from slotid_core.evaluation.targets import HUES, KINDS, NUMERIC, standardised
from slotid_core.training.data import Entry, StoreWriter, encoder_sha256

FIDELITIES = {
    "target", "target, worst frame", "reference", "reference, worst frame", "reference, clear",
    "reference, clear, worst frame",
}  # fmt: skip
# A batch of one reference and both smiles of another person.
SMALL = {"BATCH": 3, "LOPSIDED": 2, "SMILES": 2, "SMILERS": 1}


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


def test_other_smiles_differ_in_nothing_but_how_lopsided_they_are():
    rows = list(range(2 * r.SMILES))
    (who, tracks), (known, their) = r._smiles_of(rows), reference_tracks([TRAIN[row // r.SMILES] for row in rows])
    other = dict(who.values)
    drawn = other.pop("smile_asymmetry")
    assert len(set(drawn.tolist())) == len(rows) and all(torch.equal(other[name], known[name]) for name in other)
    assert all(torch.equal(getattr(tracks, name), getattr(their, name)) for name in vars(tracks))
    torch.manual_seed(0)
    vae = WanVAE(8).requires_grad_(False)
    latents = r._lopsided(vae, 0, 2 * r.SMILES)
    assert latents.shape == (2 * r.SMILES, 16, 9, 8, 8) and latents.dtype == torch.float16
    # Until the face smiles, with the same bars and blurs in front of it, clips of one person are the same.
    start = int((tracks.smile[0] > 0).nonzero()[0]) // 4
    assert torch.equal(latents[0, :, :start], latents[1, :, :start]) and not torch.equal(latents[0], latents[1])
    assert torch.equal(latents[r.SMILES :], r._lopsided(vae, r.SMILES, r.SMILES))


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
        "PEOPLE": 4, "HELD_OUT": 8, "PART": 4, "STEPS": 4, "PSNR_PEOPLE": 2, "SIZES": (64,), **SMALL,
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

    def held_out_only(seeds, **options):
        assert seeds[0] in TEST, "the latents to learn from were there already"
        return reference_clips(seeds, **options)

    monkeypatch.setattr(r, "reference_clips", held_out_only)
    assert r.write_readability(vae, tmp_path / "results", tmp_path / "images", tmp_path / "work").read_bytes() == before


def test_the_training_store_serves_in_place_of_new_clips(tmp_path, monkeypatch):
    for name, value in {"HELD_OUT": 8, "PART": 4, **SMALL}.items():
        monkeypatch.setattr(r, name, value)
    vae, store = tmp_path / "vae.safetensors", tmp_path / "store"
    torch.manual_seed(0)
    checkpoint.write(vae, WanVAE(8).state_dict(), {})
    with pytest.raises(SlotIDError, match="no store of the demo world"):
        r.readability(vae, tmp_path / "work", 2, 0, store)
    writer = StoreWriter(store, {"source": "demo world", "vae": encoder_sha256(vae)}, 4)
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
    # Another decoder leaves latents as they are, another encoder does not.
    weights = {name: tensor + name.startswith("decoder.") for name, tensor in safetensors.torch.load_file(vae).items()}
    checkpoint.write(vae, weights, {})
    assert torch.equal(r._stored(store, vae)[0], latents)
    checkpoint.write(vae, {**weights, "conv1.bias": weights["conv1.bias"] + 1}, {})
    with pytest.raises(SlotIDError, match="no store of the demo world"):
        r.readability(vae, tmp_path / "work", 2, 0, store)
