"""The demo world as a pair store: where the face is, what the baselines read, and going on."""

import torch

from slotid_core.demo import store as demo
from slotid_core.demo.clips import reference_clips, target_clips
from slotid_core.demo.files import demo_files
from slotid_core.demo.people import PARAMETERS, TRAIN, People, people
from slotid_core.demo.prompts import Prompt, embed_empty, embed_prompt
from slotid_core.demo.renderer import render
from slotid_core.demo.wan_vae import ResidualBlock, WanVAE
from slotid_core.training.data import PairStore

VAE = demo_files().vae


def test_face_cells_are_where_the_head_is():
    clips = target_clips(TRAIN[:6])
    face = demo.face_cells(clips.people, clips.tracks, 64)
    assert face.shape == (6, 5, 8, 8) and face.min() == 0 and face.max() == 1
    # Where another skin changes the picture, there is skin: the head, and some of neck and ears.
    tones = []
    for tone in (0.0, 1.0):
        who = People(clips.people.seeds, {**clips.people.values, "skin_tone": torch.full((6,), tone)})
        tones.append(render(who, clips.tracks))
    changed = (tones[0] - tones[1]).abs().mean(-1)[:, :1]
    cells = torch.nn.functional.avg_pool2d(changed, 8)
    first = face[:, :1]
    assert cells[first >= demo.HEAD_COUNTS].mean() > 4 * cells[first == 0].mean()


def test_what_tells_people_apart_counts_most():
    prompts = [Prompt("front", "smile", "blue")] * 6
    clips = target_clips(TRAIN[:6], prompts=prompts)
    face = demo.face_cells(clips.people, clips.tracks, 64)
    for name, low, high in (("eye_hue", 0.1, 0.6), ("lip_fullness", 0.02, 0.05), ("mouth_width", 0.16, 0.23)):
        pictures = []
        for value in (low, high):
            who = People(clips.people.seeds, {**clips.people.values, name: torch.full((6,), value)})
            pictures.append(render(who, clips.tracks))
        changed = torch.nn.functional.avg_pool2d((pictures[0] - pictures[1]).abs().mean(-1)[:, :1], 8)
        # Most of the change lies where cells count more than the plain head.
        weights = face[:, :1]
        share = (changed * (weights > 0.3)).sum() / changed.sum()
        assert share > 0.8, (name, share)
        assert (weights > 0.3).float().mean() < 0.3


def test_parameters_fill_their_range():
    numbers = demo.normalised_parameters(people(TRAIN[:200]))
    assert numbers.shape == (200, len(PARAMETERS))
    assert numbers.min() >= -1 and numbers.max() <= 1 and numbers.std(0).min() > 0.3


def test_attributes_have_unit_variance_and_no_jump_in_hue():
    numbers = demo.attributes(demo.normalised_parameters(people(TRAIN[:2000])))
    assert numbers.shape == (2000, 38)
    torch.testing.assert_close(numbers.mean(0), torch.zeros(38), rtol=0, atol=0.1)
    torch.testing.assert_close(numbers.std(0), torch.ones(38), rtol=0, atol=0.1)
    ends = torch.zeros(2, len(PARAMETERS))
    ends[:, list(PARAMETERS).index("eye_hue")] = torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(*demo.attributes(ends))


def test_photos_are_frames_of_the_reference():
    clips = reference_clips(TRAIN[:12])
    frames = demo.stills(clips, 0)
    rows = torch.arange(12)
    assert not clips.spoiled[rows, frames["frontal"]].any()
    assert clips.tracks.yaw[rows, frames["frontal"]].abs().max() < 0.35
    assert len(set(frames["random"].tolist())) > 5
    # The same person and take give the same frame, whoever else is in the batch.
    assert torch.equal(demo.stills(reference_clips(TRAIN[4:6]), 0)["random"], frames["random"][4:6])


def test_leaving_out_silent_branches_changes_nothing():
    vae = demo.load_vae(VAE)
    whole = WanVAE(16)
    whole.load_state_dict(vae.state_dict())
    frames = target_clips(TRAIN[:1]).frames
    # The packaged encoder's branches have no weights, but some of them a bias.
    blocks = [module for module in vae.encoder.modules() if isinstance(module, ResidualBlock)]
    assert all(block.skipped for block in blocks) and any(block.residual[-1].bias.any() for block in blocks)
    with torch.no_grad():
        torch.testing.assert_close(demo.encode(vae, frames), demo.encode(whole, frames), rtol=1e-4, atol=1e-4)
        latents = demo.encode(vae, frames)
        torch.testing.assert_close(demo.decode(vae, latents), demo.decode(whole, latents), rtol=1e-4, atol=1e-4)


def test_a_store_grows_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "PART", 2)
    demo.fill_demo_store(tmp_path, VAE, 3, 64, targets=1, references=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # As if it had been killed before the last part, and asked for a second take since.
    (tmp_path / "target_00001.safetensors").unlink()
    demo.fill_demo_store(tmp_path, VAE, 3, 64, targets=2, references=1)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert all(after[name] == data for name, data in before.items())
    store = PairStore(tmp_path)
    assert (len(store.references), len(store.targets), len(store.usable)) == (3, 6, 6)
    assert store.references.names() == {"latents", "random", "frontal", "parameters", "attributes"}
    assert store.text_tokens == 4 and len(store.prompts) == 1 + 5 * 3 * 5

    # What is stored is what the world shows, and a photo's latents are those of its frame alone.
    clips, vae = reference_clips(TRAIN[:1]), demo.load_vae(VAE)
    latents = store.references.take("latents", [0])
    torch.testing.assert_close(latents, demo.encode(vae, clips.frames).half())
    photo = clips.frames[:, int(demo.stills(clips, 0)["frontal"])][:, None]
    torch.testing.assert_close(store.references.take("frontal", [0]), demo.encode(vae, photo).half())
    torch.testing.assert_close(latents[:, :, :1], demo.encode(vae, clips.frames[:, :1]).half(), rtol=1e-2, atol=1e-2)
    prompt = target_clips(TRAIN[:1]).prompts[0]
    text = store.text([0, int(store.targets.take("text", [0]))])
    torch.testing.assert_close(text[0], embed_empty().half())
    torch.testing.assert_close(text[1], embed_prompt(prompt.pose, prompt.expression, prompt.background).half())
