"""The files that ship: sample clips and demo weights."""

import math

import pytest
import torch

from slotid_core import checkpoint
from slotid_core.demo import store
from slotid_core.demo.clips import reference_clips, target_clips
from slotid_core.demo.files import demo_files
from slotid_core.demo.people import TEST, VALIDATION
from slotid_core.demo.samples import SAMPLES
from slotid_core.demo.vae import to_video
from slotid_core.demo.wan_vae import WanVAE
from slotid_core.latents import normalise_wan21
from slotid_core.model import SlotID
from slotid_core.video import load_video

FILES = demo_files()
# dB at 64 px; measured on two targets: 30.5, on eight references of held-out people: 28.9.
LEGIBLE = 27.0


def psnr(one, other):
    return -10 * math.log10(float((one - other).square().mean()))


def test_every_file_is_there_and_all_are_small():
    assert all(path.is_file() for path in FILES.weights())
    assert sum(path.stat().st_size for path in FILES.weights()) <= 40e6
    assert [path.stem for path in FILES.clips] == sorted(SAMPLES)
    assert all(path.stat().st_size < 200_000 for path in FILES.clips)


def test_sample_clips_are_two_held_out_people():
    assert len(set(SAMPLES.values())) == 2 and all(seed in TEST for seed in SAMPLES.values())
    for path in FILES.clips:
        clip = load_video(path, frames=33, fps=16)
        assert clip.frames.shape == (33, 256, 256, 3)
        drawn = reference_clips([SAMPLES[path.stem]], size=256).frames[0]
        assert psnr(clip.frames, drawn) > 26, path.name


def test_weights_say_what_they_are():
    for path in FILES.weights():
        metadata = checkpoint.read_header(path).metadata
        assert "demo weights" in metadata["trained_on"] and "seed" in metadata["trained_on"], path.name
        assert metadata["license"] == "Apache-2.0"
    assert SlotID.load(FILES.slot_id).config.encoder.crop_size == 64


def test_weights_have_the_original_wan_names():
    dit, vae = (checkpoint.read_header(path).tensors for path in (FILES.diffusion_model, FILES.vae))
    assert dit["patch_embedding.weight"][1] == (256, 16, 1, 2, 2)
    assert dit["blocks.3.ffn.0.weight"][1] == (1024, 256) and "blocks.4.ffn.0.weight" not in dit
    assert dit["text_embedding.0.weight"][1] == (256, 4096)
    assert vae["decoder.head.0.gamma"][1] == (16, 1, 1, 1) and vae["conv2.weight"][1] == (16, 16, 1, 1, 1)
    assert vae.keys() == WanVAE(16).state_dict().keys()


def test_vae_keeps_held_out_clips_legible_in_diffusers():
    pytest.importorskip("diffusers")
    from slotid_core.pipelines.wan import decode_video, encode_video, load_wan_vae

    vae = load_wan_vae(FILES.vae)
    frames = target_clips(VALIDATION[100:102]).frames
    made = torch.stack([decode_video(vae, encode_video(vae)(clip)) for clip in frames])
    assert psnr(made, frames) > LEGIBLE


def test_vae_keeps_references_with_their_occluded_and_blurred_frames():
    vae, clips = store.load_vae(FILES.vae), reference_clips([*TEST[:4], *TEST[-4:]])
    assert clips.spoiled.any()
    assert psnr(store.decode(vae, store.encode(vae, clips.frames)), clips.frames) > LEGIBLE


def test_latents_are_normal_in_the_models_space():
    vae = WanVAE(16)
    vae.load_state_dict({name: tensor.float() for name, tensor in _tensors(FILES.vae).items()})
    clips = torch.cat([target_clips(VALIDATION[:8]).frames, reference_clips(VALIDATION[8:12]).frames[:, :17]])
    with torch.no_grad():
        latents = normalise_wan21(vae.encode(to_video(clips))[0])
    assert latents.mean((0, 2, 3, 4)).abs().max() < 0.4
    deviation = latents.std((0, 2, 3, 4))
    assert deviation.min() > 0.7 and deviation.max() < 1.4


def _tensors(path):
    header = checkpoint.read_header(path)
    expected = {name: ((dtype,), shape) for name, (dtype, shape) in header.tensors.items()}
    return checkpoint.read_tensors(path, expected, header)
