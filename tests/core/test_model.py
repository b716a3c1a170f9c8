"""Encoding a prepared clip into an identity."""

import dataclasses

import pytest
import torch

from slotid_core.config import Backbone
from slotid_core.errors import SlotIDError, SlotIDWarning
from slotid_core.latents import WAN21_MEAN, denormalise_wan21, encode_frames, normalise_wan21
from slotid_core.model import SALIENCY_FLOOR, SlotID, token_saliency

from .models import TINY, fake_vae, saved_model, tiny_faces, tiny_model


@pytest.fixture
def model(tmp_path):
    return saved_model(tmp_path / "model.safetensors")


def test_identity_says_where_it_comes_from(model):
    faces = tiny_faces()
    identity = model.encode(faces, fake_vae, consent="mine")
    assert identity.tokens.shape == (8, 24) and identity.tokens.dtype == torch.float32
    assert identity.thumbnails.shape == (4, 64, 64, 3) and identity.thumbnails.dtype == torch.uint8
    assert identity.model_name == "model.safetensors" and identity.model_hash == model.hash
    assert identity.backbone == TINY.backbone and identity.consent == "mine"
    assert identity.source == "tiny.mp4" and identity.source_hash == faces.clip.sha256
    assert identity.frames_used == tuple(faces.clip.timestamps.tolist())
    assert identity.coverage == faces.coverage.to_dict()


def test_same_clip_same_bytes_other_clip_other_tokens(model, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    model.encode(tiny_faces(), fake_vae).save(one)
    model.encode(tiny_faces(), fake_vae).save(two)
    assert one.read_bytes() == two.read_bytes()
    other = model.encode(tiny_faces(seed=1), fake_vae)
    assert (other.tokens - model.encode(tiny_faces(), fake_vae).tokens).abs().max() > 1e-3


def test_encoding_does_not_touch_random_state_or_weights(model):
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.random.get_rng_state()
    model.encode(tiny_faces(), fake_vae)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_photo_works_with_a_warning(model):
    with pytest.warns(SlotIDWarning, match="single photo"):
        identity = model.encode(tiny_faces(1), fake_vae)
    torch.testing.assert_close(identity.tokens[4:], model.encoder.out.no_dynamics)


def test_identity_of_another_model_is_refused_with_both_names(model, tmp_path):
    identity = model.encode(tiny_faces(), fake_vae)
    identity.check_model(model)
    other = saved_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(SlotIDError, match=r"(?s)model\.safetensors.*other\.safetensors"):
        identity.check_model(other)


def test_an_identity_keeps_how_much_each_slot_found(model):
    identity, trace = model.encode_with_routing(tiny_faces(), fake_vae)
    assert torch.equal(identity.evidence, trace.evidence[0].exp())
    assert identity.evidence.shape == (4,) and (identity.evidence > 1).all(), "1 is what a slot starts with"


def test_model_that_was_never_saved_is_refused():
    with pytest.raises(SlotIDError, match="never saved"):
        tiny_model().encode(tiny_faces(), fake_vae)


def test_crops_of_any_size_come_to_the_models_own(model):
    faces = tiny_faces()
    large = dataclasses.replace(
        faces,
        crops=faces.crops.repeat_interleave(2, 1).repeat_interleave(2, 2),
        masks=faces.masks.repeat_interleave(2, 1).repeat_interleave(2, 2),
    )
    assert model.encode(large, lambda f: fake_vae(f) if f.shape[1] == 64 else f).tokens.shape == (8, 24)


@pytest.mark.parametrize(
    ("vae", "words"),
    [
        (lambda f: fake_vae(f)[:8], "latents of shape"),
        (lambda f: fake_vae(f).repeat(1, 4, 1, 1), "latents of shape"),
        (lambda f: fake_vae(f)[..., ::2, ::2], "latents of shape"),
        (lambda f: fake_vae(f) * float("nan"), "NaN"),
    ],
)
def test_vae_that_does_not_fit(model, vae, words):
    with pytest.raises(SlotIDError, match=words):
        model.encode(tiny_faces(), vae)


def test_wan_22_5b_has_a_vae_of_its_own(tmp_path):
    backbone = Backbone("wan2.2", TINY.backbone.width, TINY.backbone.depth, latent_channels=48)
    model = saved_model(tmp_path / "5b.safetensors", dataclasses.replace(TINY, backbone=backbone))
    identity, trace = model.encode_with_routing(tiny_faces(), lambda f: fake_vae(f)[..., ::2, ::2].repeat(3, 1, 1, 1))
    assert trace.grid == (2, 2) and identity.backbone == backbone
    with pytest.raises(SlotIDError, match=r"16 pixels to one"):
        model.encode(tiny_faces(), fake_vae)


@pytest.mark.parametrize("shape", [(8, 64, 64, 3), (9, 64, 64, 4), (64, 64, 3)])
def test_frames_of_another_shape(shape):
    with pytest.raises(SlotIDError, match="frames of shape"):
        encode_frames(torch.zeros(shape), fake_vae, TINY.backbone)


def test_latent_statistics():
    raw = torch.randn(2, 16, 3, 4, 4)
    torch.testing.assert_close(denormalise_wan21(normalise_wan21(raw)), raw, rtol=1e-5, atol=1e-5)
    at_mean = torch.tensor(WAN21_MEAN).view(16, 1, 1, 1).expand(16, 1, 2, 2)
    assert (normalise_wan21(at_mean) == 0).all()


def test_saliency_follows_the_mask_in_space_and_time():
    masks = torch.zeros(9, 64, 64)
    masks[1:5, :32] = 1
    weights = token_saliency(masks, 4)
    assert weights.shape == (3, 4, 4)
    assert (weights[1, :2] == 1).all() and (weights[1, 2:] == SALIENCY_FLOOR).all()
    assert (weights[[0, 2]] == SALIENCY_FLOOR).all()


def test_a_fresh_model_saves_and_loads(tmp_path):
    SlotID(TINY).save(tmp_path / "fresh.safetensors", trained_on="nothing", license="Apache-2.0")
    assert SlotID.load(tmp_path / "fresh.safetensors").metadata["trained_on"] == "nothing"
