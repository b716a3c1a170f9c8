"""The builder of the demo weights: layouts, the encoder in closed form, the training loop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from slotid_core.checkpoint import read_header, write
from slotid_core.demo import backbone, files, weights
from slotid_core.demo.clips import reference_clips, target_clips
from slotid_core.demo.files import demo_files
from slotid_core.demo.fitting import Plan, fit, orthogonal
from slotid_core.demo.people import TRAIN
from slotid_core.demo.seeds import integer
from slotid_core.demo.vae import new_vae, normalise, round_trip, to_video
from slotid_core.demo.vae_start import start_encoder
from slotid_core.demo.wan_vae import ResidualBlock, WanVAE
from slotid_core.latents import normalise_wan21
from slotid_core.model import SlotID


def shaken(module, seed=0):
    """Weights in which nothing is zero or one by construction."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def test_whole_clips_at_once_give_what_diffusers_gives_in_chunks():
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    ours = shaken(WanVAE(8))
    theirs = diffusers.AutoencoderKLWan(base_dim=8, z_dim=16).eval()
    theirs.load_state_dict(convert_wan_vae_to_diffusers(ours.state_dict()))
    video = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = ours.encode(video)[0]
        assert torch.allclose(latents, theirs.encode(video).latent_dist.mode(), atol=1e-4)
        made = ours.decode(latents).clamp(-1, 1)
    assert made.std() > 0.05
    assert torch.allclose(made, theirs.decode(latents).sample, atol=1e-4)


def test_what_light_leaves_out_is_zero():
    light, whole = WanVAE(16, light=True), WanVAE(16)
    video = to_video(target_clips([1], frames=5).frames)
    round_trip_loss = light.decode(light.encode(video)[0]).square().mean()
    round_trip_loss.backward()
    assert any(isinstance(module, ResidualBlock) and module.skipped for module in light.modules())
    with torch.no_grad():
        for parameter in light.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    whole.load_state_dict(light.state_dict())
    with torch.no_grad():
        assert torch.allclose(round_trip(light, video), round_trip(whole, video), atol=1e-5)


def test_encoder_in_closed_form_is_as_good_as_principal_components():
    known = to_video(target_clips(TRAIN[:16]).frames)
    vae = WanVAE(16, light=True)
    start_encoder(vae, known)
    with torch.no_grad():
        codes = vae.encode(known)[0][:, :, 1:].movedim(1, -1).reshape(-1, 16)
    # Every latent cell of a later frame stands for 4 frames of 8 x 8 pixels.
    cells = known[:, :, 1:].unflatten(2, (-1, 4)).unflatten(4, (8, 8)).unflatten(6, (8, 8))
    cells = cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(len(codes), -1)

    def left(features):
        rows = torch.cat([features, torch.ones(len(features), 1)], 1).double()
        return float((cells - rows @ torch.linalg.lstsq(rows, cells.double()).solution).square().mean())

    centred = (cells - cells.mean(0)).double()
    best = torch.linalg.eigvalsh(centred.T @ centred)[:-16].sum() / cells.numel()
    assert 10 * math.log10(left(codes) / best) < 0.3


def test_a_still_clip_keeps_its_first_frames_code():
    vae = WanVAE(16, light=True)
    known = to_video(target_clips(TRAIN[:16]).frames)
    start_encoder(vae, known)
    with torch.no_grad():
        codes = vae.encode(known[:, :, :1].expand(-1, -1, 5, -1, -1))[0]
    assert (codes[:, :, 1] - codes[:, :, 0]).norm() < 0.35 * codes[:, :, 0].norm()


def test_latents_get_wans_statistics():
    vae = shaken(WanVAE(8))
    videos = to_video(target_clips(TRAIN[:8], frames=5).frames)
    normalise(vae, videos)
    with torch.no_grad():
        latents = normalise_wan21(vae.encode(videos)[0])
        decoder_sees = vae.conv2(vae.encode(videos)[0])
    assert latents.mean((0, 2, 3, 4)).abs().max() < 1e-3 and (latents.std((0, 2, 3, 4)) - 1).abs().max() < 1e-3
    assert torch.allclose(latents, decoder_sees, atol=1e-4)


def test_transformer_names_survive_the_way_to_wan_and_back():
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    tensors = backbone.new_transformer(backbone.BackboneSection(depth=6), 0).state_dict()
    original = backbone.original_names(tensors)
    assert original.keys() >= {"blocks.0.self_attn.norm_q.weight", "blocks.5.modulation", "head.modulation"}
    assert not any("attn1" in name or "condition_embedder" in name for name in original)
    back = convert_wan_transformer_to_diffusers(dict(original))
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_an_orthogonalised_update_has_about_equal_singular_values():
    matrix = torch.randn(24, 80, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 24)[:, None]
    for tried in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonal(tried))
        assert values.min() > 0.3 and values.max() < 1.4


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    data = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    truth = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    plan = Plan(steps=40, matrix_rate=0.05, other_rate=0.01, warmup=5, decay=10, save_every=5)

    def run(folder, stop_at=None):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        layer, losses = torch.nn.Linear(8, 4), {}

        def loss(step):
            if step == stop_at:
                raise KeyboardInterrupt
            rows = data[(step * 7) % 48 :][:16]
            losses[step] = (layer(rows) - rows @ truth).square().mean()
            return losses[step]

        try:
            average = fit("toy", dict(layer.named_parameters()), loss, plan, folder)
        except KeyboardInterrupt:
            return losses, None
        return losses, average

    straight, average = run(tmp_path / "straight")
    run(tmp_path / "stopped", stop_at=23)
    resumed, average_resumed = run(tmp_path / "stopped")
    assert min(resumed) == 20 and all(torch.equal(resumed[step], straight[step]) for step in range(20, 40))
    assert all(torch.equal(average[name], average_resumed[name]) for name in average)
    assert straight[39] < 0.5 * straight[0]


def test_the_command_teaches(capsys):
    with pytest.raises(SystemExit) as end:
        weights.main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and all(word in said for word in ("--work", "demo_backbone", "--seeded", "resum"))


def test_one_command_builds_every_file(tmp_path, monkeypatch, capsys):
    pytest.importorskip("diffusers")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    made = replace(
        demo_files(),
        diffusion_model=tmp_path / "made" / "dit.safetensors",
        vae=tmp_path / "made" / "vae.safetensors",
        slot_id=tmp_path / "made" / "slotid.safetensors",
    )
    for module in (files, weights):
        monkeypatch.setattr(module, "demo_files", lambda: made)
    few = ["run.steps=2", "run.batch=2", "samples.every=0"]
    clips = [*few, "data.demo.people=4"]
    small = ["backbone.width=128", "backbone.depth=1", "backbone.ffn=64"]
    changes = {"demo_vae": few, "demo_backbone": [*clips, *small], "demo_identity": clips}
    weights.build(tmp_path / "work", changes)
    first = [path.read_bytes() for path in made.weights()]
    for path in made.weights():
        header = read_header(path)
        assert header.metadata["trained_on"].endswith("; 2 steps")
        assert {dtype for dtype, _ in header.tensors.values()} == {"F16"}
    assert WanVAE(16).load_state_dict(load_file(made.vae))
    # Everything is found again, and nothing trained twice.
    weights.build(tmp_path / "work", changes)
    assert [path.read_bytes() for path in made.weights()] == first
    monkeypatch.setattr(weights, "build", lambda *_: pytest.fail("trained"))
    weights.main(["--work", str(tmp_path / "work"), "--seeded", "--threads", str(torch.get_num_threads())])
    assert all("not trained, seed 0" in read_header(path).metadata["trained_on"] for path in made.weights())
    assert SlotID.load(made.slot_id).config.encoder.width == 128


def test_the_vae_learns_and_freezes_what_it_is_told(tmp_path):
    pytest.importorskip("accelerate")
    from slotid_core.training.loop import train
    from slotid_core.training.tasks import load_experiment, make_task

    changes = ["run.steps=3", "run.precision=no", "vae.encoder=false", "vae.frames=5", "samples.every=0"]
    config = load_experiment("demo_vae", changes)
    task = make_task(config)
    before = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    made = train(task, config, tmp_path)
    moved = {name for name, t in task.module.state_dict().items() if not torch.equal(t, before[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)
    # What is made goes on where it was; the decoder's head is one of the things that moved.
    again = make_task(load_experiment("demo_vae", [*changes, f"vae.start={made}"])).module.state_dict()
    assert "decoder.head.2.weight" in moved
    torch.testing.assert_close(again["decoder.head.2.weight"], load_file(made)["decoder.head.2.weight"].float())
    batch = task.batch(1, range(2))
    assert torch.equal(task.batch(1, range(1, 2))["frames"], batch["frames"][1:])
    whole = make_task(load_experiment("demo_vae", [*changes, "vae.encoder=true"]))
    whole.loss(batch)[0].backward()
    assert whole.module.encoder.conv1.weight.grad.any() and whole.module.conv1.weight.grad.any()


def test_the_vae_sees_what_spoils_references():
    pytest.importorskip("accelerate")
    from slotid_core.training.flow import stream
    from slotid_core.training.tasks import load_experiment, make_task

    task, spoiled = make_task(load_experiment("demo_vae")), 0
    for step in range(1, 7, 2):
        # Row 0 of an odd step is a stretch of a reference: some reference must hold it, as it is in clips.
        stretch = task.batch(step, range(1))["frames"][0]
        generator = stream("vae", 0, step, 0)
        person, start = integer(generator, TRAIN.start, TRAIN.stop - 1), integer(generator, 0, 33 - len(stretch))
        clip = reference_clips([person], step)
        torch.testing.assert_close(stretch, clip.frames[0, start : start + len(stretch)])
        spoiled += int(clip.spoiled[0, start : start + len(stretch)].sum())
    assert spoiled


def test_training_on_wakes_what_a_file_left_silent(tmp_path):
    pytest.importorskip("accelerate")
    from slotid_core.demo.store import load_vae
    from slotid_core.training.tasks import load_experiment, make_task

    path = tmp_path / "vae.safetensors"
    write(path, WanVAE(16, light=True).state_dict(), {})
    assert load_vae(path).decoder.upsamples[6].skipped
    changes = [f"vae.start={path}", "vae.encoder=false", "vae.frames=5", "run.precision=no"]
    task = make_task(load_experiment("demo_vae", changes))
    video = task.batch(0, range(1))
    task.loss(video)[0].backward()
    decoder, encoder = task.module.decoder, task.module.encoder
    assert decoder.upsamples[6].residual[-1].weight.grad[:, :, 0].any()
    assert decoder.upsamples[14].skipped and encoder.downsamples[7].skipped
    # Woken, it still gives what the file gives, until it is trained.
    frames = to_video(video["frames"])
    torch.testing.assert_close(round_trip(task.module, frames), round_trip(load_vae(path), frames))


@pytest.mark.parametrize("start", ["", "a file whose branches are all zero"])
def test_every_branch_of_the_encoder_can_learn(tmp_path, start):
    pytest.importorskip("accelerate")
    from slotid_core.training.tasks import load_experiment, make_task

    changes = ["vae.frames=5", "run.precision=no"]
    if start:
        vae = new_vae(16, 0)
        for module in vae.encoder.modules():
            if isinstance(module, ResidualBlock):
                module.residual[2].weight.data.zero_()
        write(tmp_path / "vae.safetensors", vae.state_dict(), {})
        changes.append(f"vae.start={tmp_path / 'vae.safetensors'}")
    task = make_task(load_experiment("demo_vae", changes))
    task.loss(task.batch(0, range(1)))[0].backward()
    learn = [block for block in task.module.encoder.modules() if isinstance(block, ResidualBlock) and not block.skipped]
    assert len(learn) == 6 and all(block.residual[-1].weight.grad.any() for block in learn)


def test_the_sheets_of_the_demo_tasks(tmp_path):
    pytest.importorskip("diffusers")
    from slotid_core.demo.store import fill_demo_store
    from slotid_core.training.tasks import load_experiment, make_task

    fill_demo_store(tmp_path, demo_files().vae, 2, 64, targets=1, references=0)
    store = [f"data.store={tmp_path}", "data.demo.people=2", "samples.rows=1", "samples.steps=2"]
    for name, changes in (("demo_vae", ["samples.rows=1"]), ("demo_backbone", store)):
        picture = make_task(load_experiment(name, changes)).sample(7)
        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.std() > 10


def test_no_word_is_lost_in_training(tmp_path):
    pytest.importorskip("diffusers")
    from slotid_core.demo.prompts import BACKGROUNDS, EXPRESSIONS, POSES, embed_prompt
    from slotid_core.demo.store import fill_demo_store
    from slotid_core.training.loop import train
    from slotid_core.training.tasks import load_experiment, make_task

    fill_demo_store(tmp_path / "store", demo_files().vae, 4, 64, targets=1, references=0)
    changes = [f"data.store={tmp_path / 'store'}", "data.demo.people=4", "run.batch=4", "run.steps=40"]
    changes += ["run.precision=no", "samples.every=0", "optimiser.warmup=1", "optimiser.decay=1"]
    changes += ["backbone.width=128", "backbone.depth=1", "backbone.ffn=64"]
    config = load_experiment("demo_backbone", changes)
    task = make_task(config)
    train(task, config, tmp_path / "run")
    embed = task.module.condition_embedder.text_embedder
    pose, expression, background = "front", "smile", "red"
    with torch.no_grad():
        for place, words in ((1, POSES), (2, EXPRESSIONS), (3, BACKGROUNDS)):
            said = [[pose, expression, background] for _ in words]
            for row, word in zip(said, words, strict=True):
                row[place - 1] = word
            told = torch.stack([embed(embed_prompt(*row)[None])[0, place] for row in said])
            assert torch.pdist(told).min() > 0.2 * told.norm(dim=1).mean()
