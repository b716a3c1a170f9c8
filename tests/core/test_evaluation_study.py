"""Sampling of many people at once, trained encoders found and read, and results on disk."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from slotid_core import checkpoint
from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.demo.clips import reference_clips
from slotid_core.demo.people import TEST
from slotid_core.demo.store import load_vae, stills
from slotid_core.errors import SlotIDError
from slotid_core.evaluation.design import Design
from slotid_core.evaluation.models import find_trained, identity_tokens, load_trained, read_origin
from slotid_core.evaluation.results import Run, Settings, open_study, read_runs, read_study, write_run
from slotid_core.evaluation.sampling import Guidance, decode_clips, encode_clips, noise_of, sample
from slotid_core.model import SlotID
from slotid_core.training.variants import new_variant

from .models import tiny_model
from .wan_files import write_dit, write_vae

pytest.importorskip("diffusers")
from slotid_core.pipelines import wan

CONFIG = SlotIDConfig(
    Backbone("wan2.1", width=128, depth=2),
    EncoderConfig(width=32, depth=1, heads=2, slots=4, crop_size=64),
    ConditioningConfig(inner_width=16, heads=2, stride=1),
    identity_width=24,
)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    path = tmp_path_factory.mktemp("wan") / "dit.safetensors"
    write_dit(path)
    return wan.load_wan_transformer(path)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    path = tmp_path_factory.mktemp("wan") / "vae.safetensors"
    write_vae(path)
    return load_vae(path)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_guidance_adds_up():
    assert Guidance().branches(True) == {"identity": 1.0}
    assert Guidance().branches(False) == {"text": 1.0}
    assert Guidance(cfg=2.0).branches(True) == {"uncond": -1.0, "identity": 2.0}
    assert Guidance(cfg=2.0, identity_cfg=0.5).branches(True) == {"uncond": -1.0, "text": 1.0, "identity": 1.0}
    for guidance in (Guidance(cfg=3.0, identity_cfg=1.5), Guidance(cfg=0.5)):
        assert sum(guidance.branches(True).values()) == sum(guidance.branches(False).values()) == 1.0


def test_plain_sampling_is_the_pipelines(transformer):
    noise, width = drawn(2, 16, 2, 4, 4), transformer.config.text_dim
    text = drawn(2, 4, width, seed=1)
    made = sample(transformer, noise, text, Guidance(3))
    assert torch.allclose(made, wan.sample(transformer, noise, text, None, steps=3, cfg=1.0, shift=3.0), atol=1e-5)


def test_guided_sampling_is_the_pipelines(transformer, monkeypatch):
    from slotid_core.evaluation import sampling

    noise, width = drawn(2, 16, 2, 4, 4), transformer.config.text_dim
    text, empty = drawn(2, 4, width, seed=1), drawn(4, width, seed=2)
    monkeypatch.setattr(sampling, "embed_empty", lambda: empty)
    made = sample(transformer, noise, text, Guidance(3, cfg=2.0))
    assert torch.allclose(made, wan.sample(transformer, noise, text, empty, steps=3, cfg=2.0, shift=3.0), atol=1e-5)
    model, tokens = tiny_model(CONFIG), drawn(2, 8, 24, seed=3)
    both = sample(transformer, noise, text, Guidance(3, cfg=2.0, identity_cfg=0.0), model=model, tokens=tokens)
    assert torch.allclose(both, made, atol=1e-5)
    carried = sample(transformer, noise, text, Guidance(3, cfg=2.0, identity_cfg=1.5), model=model, tokens=tokens)
    assert not torch.allclose(carried, made, atol=1e-2)
    assert not transformer._forward_pre_hooks and not transformer.blocks[0]._forward_hooks


def test_each_row_carries_its_own_identity(transformer):
    model, tokens = tiny_model(CONFIG), drawn(2, 8, 24, seed=3)
    noise, text = drawn(1, 16, 2, 4, 4).expand(2, -1, -1, -1, -1), drawn(1, 4, transformer.config.text_dim, seed=1)
    made = sample(transformer, noise, text.expand(2, -1, -1), Guidance(3), model=model, tokens=tokens)
    alone = [sample(transformer, noise[:1], text, Guidance(3), model=model, tokens=tokens[i : i + 1]) for i in (0, 1)]
    assert torch.allclose(made, torch.cat(alone), atol=1e-5) and not torch.allclose(made[0], made[1], atol=1e-2)


def test_noise_belongs_to_person_and_video():
    one = noise_of([(5, 0), (5, 1), (6, 0)], (2, 3))
    assert torch.equal(one[2:], noise_of([(6, 0)], (2, 3))) and not torch.equal(one[0], one[1])


def saved_variant(path, name, seed=0, parameters=30):
    """A file as training writes it."""
    model = new_variant(name, CONFIG, seed, parameters)
    model.save(path, trained_on="nothing (tests)", license="Apache-2.0")
    metadata = checkpoint.read_header(path).metadata
    metadata |= {"experiment": json.dumps({"run": {"seed": seed, "steps": 7}})}
    if name != "full":
        metadata |= {"format": "slot-id-variant", "variant": name}
    checkpoint.write(path, safetensors.torch.load_file(path), metadata)
    return model


def test_trained_encoders_are_found_and_read(tmp_path):
    for name in ("full", "mean", "oracle", "frontal"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        model = saved_variant(tmp_path / name / "slotid.safetensors", name, seed=3)
        checkpoint.write(tmp_path / name / "checkpoints" / "step.safetensors", {"a": torch.ones(1)}, {})
        path = tmp_path / name / "slotid.safetensors"
        origin = read_origin(path)
        assert (origin.variant, origin.seed, origin.steps) == (name, 3, 7)
        loaded = load_trained(path)
        assert type(loaded.encoder.reader if name != "oracle" else loaded.encoder) is type(
            model.encoder.reader if name != "oracle" else model.encoder
        )
        for key, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor)
    write_vae(tmp_path / "vae.safetensors")
    assert [path.parent.name for path in find_trained(tmp_path)] == ["frontal", "full", "mean", "oracle"]
    with pytest.raises(SlotIDError):
        read_origin(tmp_path / "vae.safetensors")
    with pytest.raises(SlotIDError, match="no folder"):
        find_trained(tmp_path / "nowhere")


def test_each_encoder_reads_what_it_is_for(vae):
    references = reference_clips(TEST[:2], 0, frames=17)
    frames, rows = references.frames, torch.arange(2)
    expected = {
        "full": encode_clips(vae, frames),
        "first": encode_clips(vae, frames[:, :1]),
        "frontal": encode_clips(vae, frames[rows, stills(references, 0)["frontal"]][:, None]),
    }
    for name, latents in expected.items():
        model = tiny_model(CONFIG)
        assert torch.allclose(identity_tokens(model, name, vae, references, 0), model.encoder(latents)[0], atol=1e-5)
    told = new_variant("oracle", CONFIG, 0, 30)
    assert identity_tokens(told, "oracle", vae, references, 0).shape == (2, 8, 24)


def test_decoding_is_the_hosts(vae, tmp_path):
    write_vae(tmp_path / "vae.safetensors")
    theirs = wan.load_wan_vae(tmp_path / "vae.safetensors")
    latents = drawn(2, 16, 2, 4, 4)
    made = decode_clips(vae, latents)
    for row, video in zip(latents, made, strict=True):
        assert (wan.decode_video(theirs, row) * 255 - video.float()).abs().max() < 1.01


SETTINGS = Settings(Design(TEST.start, 4), Guidance(), 64, {"vae": "ab"})


def run_of(columns=20, **changed):
    facts = {"name": "full.0", "variant": "full", "wrong": False, "seed": 0, "steps": 5, "facts": {"sha256": "cd"}}
    return Run(columns={"motion": np.linspace(0, 1, columns), "pose": np.arange(columns) % 5}, **{**facts, **changed})


def test_results_come_back_as_they_were_written(tmp_path):
    open_study(tmp_path, SETTINGS)
    write_run(tmp_path, run_of())
    settings, rows = read_study(tmp_path)
    assert settings == SETTINGS and np.allclose(rows["jaw"], Design(TEST.start, 4).rows()["jaw"], atol=1e-4)
    (run,) = read_runs(tmp_path)
    assert (run.name, run.variant, run.seed, run.facts) == ("full.0", "full", 0, {"sha256": "cd"})
    assert np.allclose(run.columns["motion"], run_of().columns["motion"], rtol=5e-3)
    assert run.columns["pose"].dtype.kind == "i"
    before = (tmp_path / "study.json").read_bytes()
    open_study(tmp_path, SETTINGS)
    assert (tmp_path / "study.json").read_bytes() == before


def test_results_of_another_study_are_not_mixed_in(tmp_path):
    open_study(tmp_path, SETTINGS)
    with pytest.raises(SlotIDError, match="steps"):
        open_study(tmp_path, Settings(SETTINGS.design, Guidance(steps=8), 64, SETTINGS.files))
    write_run(tmp_path, run_of(columns=15))
    with pytest.raises(SlotIDError, match=r"full.0.json"):
        read_runs(tmp_path)
    (tmp_path / "full.0.json").write_text("{")
    with pytest.raises(SlotIDError, match=r"full.0.json"):
        read_runs(tmp_path)
    with pytest.raises(SlotIDError, match="slotid eval"):
        read_study(tmp_path / "nowhere")


def test_the_packaged_model_is_a_trained_encoder():
    from slotid_core.demo.files import demo_files

    path = demo_files().slot_id
    assert read_origin(path).variant == "full" and isinstance(load_trained(path), SlotID)
