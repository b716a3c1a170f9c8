"""The identity task: what its loss weighs, what rows without identity get, checkpointing, and the file it makes."""

import json

import numpy as np
import pytest
import torch

from slotid_core.checkpoint import read_header
from slotid_core.errors import SlotIDError
from slotid_core.model import SlotID
from slotid_core.training.data import StoreWriter
from slotid_core.training.flow import conditioned, draw_rows, velocity_error
from slotid_core.training.identity import IdentityTask, face_weighted, likeness_of_slots
from slotid_core.training.loop import train
from slotid_core.training.sheet import sample_batch
from slotid_core.training.tasks import load_experiment

from .training_files import entries, experiment, random_part, write_experiment
from .wan_files import write_vae

pytest.importorskip("diffusers")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture
def task(tmp_path):
    return IdentityTask(experiment(tmp_path))


def shaken(task):
    """Weights with which the identity changes something: W_o starts at zero."""
    with torch.no_grad():
        for block in task.module.conditioning.blocks.values():
            torch.nn.init.normal_(block.out.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return task


def test_a_row_is_a_pair_of_one_person_and_two_takes(task):
    store = task.store
    batch = task.batch(3, range(4))
    for row in range(4):
        target = next(t for t in range(6) if torch.equal(store.targets.take("latents", [t])[0], batch["clean"][row]))
        references = store.references.take("latents", range(12))
        reference = next(r for r in range(12) if torch.equal(references[r], batch["reference"][row]))
        assert store.references.entries[reference].person == store.targets.entries[target].person
        assert torch.equal(batch["face"][row], store.targets.take("face", [target])[0])


def test_batches_are_functions_of_the_step_and_rows_alone(task, tmp_path):
    whole = task.batch(7, range(4))
    parts = [task.batch(7, range(2, 4)), task.batch(7, range(2))]
    for name, tensor in whole.items():
        assert torch.equal(tensor, torch.cat([parts[1][name], parts[0][name]])), name
    assert not torch.equal(task.batch(8, range(4))["noise"], whole["noise"])


def test_text_and_identity_are_dropped_as_often_as_asked(tmp_path):
    changes = ("loss.text_dropout=0.25", "loss.identity_dropout=0.5", "run.batch=400")
    task = IdentityTask(experiment(tmp_path, *changes))
    batch = task.batch(0, range(400))
    assert abs(batch["keep"].mean() - 0.5) < 0.1
    prompts = task.store.targets.take("text", [task.store.usable[task.order[row]] for row in range(400)])
    empty = task.store.text([0])[0]
    dropped = torch.tensor([torch.equal(text, empty) for text in batch["text"]])
    assert dropped[prompts == 0].all() and abs(dropped[prompts > 0].float().mean() - 0.25) < 0.1


def test_rows_without_identity_get_exactly_the_backbone(task):
    shaken(task)
    noise, time, _ = draw_rows(0, 0, range(4), (16, 2, 4, 4), 3.0)
    clean, text = torch.randn_like(noise), task.store.text([1, 0, 2, 1]).float()
    tokens = torch.randn(4, 8, 24)
    keep = torch.tensor([1.0, 0.0, 1.0, 0.0])
    with torch.no_grad():
        plain = velocity_error(task.transformer, clean, noise, time, text)
        with conditioned(task.module, task.transformer, tokens, keep):
            mixed = velocity_error(task.transformer, clean, noise, time, text)
        assert torch.equal(mixed[keep == 0], plain[keep == 0])
        assert all(not torch.allclose(mixed[i], plain[i]) for i in (0, 2))
        assert torch.equal(velocity_error(task.transformer, clean, noise, time, text), plain)


def test_rows_without_identity_have_no_gradient(task):
    shaken(task)
    batch = task.batch(0, range(4))
    task.loss({**batch, "keep": torch.zeros(4)})[0].backward()
    # Only the diversity of the slots is left to learn from, and it knows nothing of the conditioning.
    assert not any(p.grad is not None and p.grad.any() for p in task.module.conditioning.parameters())


def test_each_row_has_its_own_identity(task):
    shaken(task)
    noise, time, _ = draw_rows(0, 0, range(2), (16, 2, 4, 4), 3.0)
    clean, text, tokens = torch.randn_like(noise), task.store.text([1, 2]).float(), torch.randn(2, 8, 24)

    def errors(rows):
        with torch.no_grad(), conditioned(task.module, task.transformer, tokens[rows]):
            return velocity_error(task.transformer, clean[rows], noise[rows], time[rows], text[rows])

    together = errors(torch.tensor([0, 1]))
    torch.testing.assert_close(together[1:], errors(torch.tensor([1])), rtol=1e-4, atol=1e-5)


def test_face_cells_count_more_and_rows_count_the_same():
    error = torch.zeros(2, 16, 1, 2, 2)
    error[0, :, 0, 0, 0], error[1, :, 0, 1, 1] = 1.0, 1.0
    face = torch.zeros(2, 1, 2, 2)
    face[:, 0, 0, 0] = 1.0
    assert face_weighted(error, face, 0.0).tolist() == pytest.approx([0.25, 0.25])
    # Weights 4, 1, 1, 1 of sum 7.
    assert face_weighted(error, face, 3.0).tolist() == pytest.approx([4 / 7, 1 / 7])
    assert face_weighted(torch.ones_like(error), face, 3.0).tolist() == pytest.approx([1.0, 1.0])


def test_the_face_weight_reaches_the_loss(tmp_path):
    plain, weighted = (IdentityTask(experiment(tmp_path, f"loss.face={weight}")) for weight in (0, 5))
    batch = plain.batch(0, range(4))
    assert plain.loss(batch)[0].item() != pytest.approx(weighted.loss(batch)[0].item(), rel=1e-4)
    nowhere = {**batch, "face": torch.zeros_like(batch["face"])}
    assert plain.loss(nowhere)[0].item() == pytest.approx(weighted.loss(nowhere)[0].item(), rel=1e-6)


def test_likeness_of_slots():
    assert likeness_of_slots(torch.eye(4).unsqueeze(0) * 3).item() == pytest.approx(0.0, abs=1e-6)
    assert likeness_of_slots(torch.ones(1, 4, 5)).item() == pytest.approx(1.0)
    half = torch.tensor([[[1.0, 0.0], [1.0, 3**0.5]]])
    assert likeness_of_slots(half).item() == pytest.approx(0.25)


def test_parts_add_up(task):
    batch = task.batch(0, range(4)) | {"keep": torch.tensor([1.0, 1.0, 0.0, 1.0])}
    loss, parts = task.loss(batch)
    mean = {name: (value[0] / value[1]).item() for name, value in parts.items()}
    assert parts["identity"][1] == 3 and parts["none"][1] == 1
    rows = (parts["identity"][0] + parts["none"][0]) / 4
    assert loss.item() == pytest.approx(rows.item() + task.config.loss.diversity * mean["alike"], rel=1e-5)
    quarters = [parts[f"t{i}"] for i in range(1, 5)]
    torch.testing.assert_close(torch.stack(quarters).sum(0), parts["identity"])


def test_checkpointing_gives_the_same_gradients(tmp_path):
    gradients = []
    for on in ("false", "true"):
        task = shaken(IdentityTask(experiment(tmp_path, f"backbone.checkpointing={on}")))
        assert task.transformer.gradient_checkpointing is (on == "true")
        task.loss(task.batch(0, range(4)))[0].backward()
        gradients.append({name: p.grad for name, p in task.module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 30
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=1e-7)


def test_training_moves_the_model_and_leaves_the_backbone(tmp_path):
    config = experiment(tmp_path, "run.steps=4")
    task = IdentityTask(config)
    before = {name: tensor.clone() for name, tensor in task.transformer.state_dict().items()}
    start = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    made = train(task, config, tmp_path / "run")
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.transformer.state_dict().items())
    moved = {name for name, tensor in task.module.state_dict().items() if not torch.equal(tensor, start[name])}
    assert {"encoder.tokenizer.project.weight", "encoder.reader.initial", "conditioning.blocks.0.out.weight"} <= moved
    assert not task.transformer.blocks[0]._forward_hooks
    model = SlotID.load(made)
    assert model.config == task.module.config
    assert model.metadata["trained_on"] == "nothing (tests), seed 0; 4 steps"
    assert json.loads(model.metadata["experiment"])["run"]["steps"] == 4


def test_tokens_are_asked_for_what_is_known_and_the_layer_that_asks_is_left_out(tmp_path):
    config = experiment(tmp_path, "run.steps=2", "loss.attributes=1")
    task = IdentityTask(config)
    model = SlotID.load(train(task, config, tmp_path / "run"))
    assert model.config == task.module.config and not hasattr(model, "readout")
    batch = task.batch(0, range(4))
    encoder = task.module.encoder
    optimiser = torch.optim.Adam([*encoder.parameters(), *task.module.readout.parameters()], 3e-3)
    missed = []
    for _ in range(60):
        loss, parts = task.loss(batch)
        missed.append(float(parts["attributes"][0] / parts["attributes"][1]))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert missed[-1] < 0.3 * missed[0]
    # It is the tokens that tell, not the layer alone: another clip's do not.
    with torch.no_grad():
        strange = task.loss({**batch, "reference": batch["reference"].roll(1, 0)})[1]["attributes"]
    assert strange[0] / strange[1] > 2 * missed[-1]


def test_the_sheet_shows_with_and_without(tmp_path):
    vae = write_vae(tmp_path / "vae.safetensors")
    task = shaken(IdentityTask(experiment(tmp_path, f"samples.vae={vae}", "samples.rows=2", "samples.steps=2")))
    picture = task.sample(3)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    # Noise is the same every time: a sheet can be compared with the one before.
    assert np.array_equal(picture, task.sample(3))


def test_sampling_keeps_rows_without_identity_as_they_are(task):
    shaken(task)
    settings, text = task.config.samples, task.store.text([1, 2]).float()
    noise, empty, tokens = torch.randn(2, 16, 2, 4, 4), task.store.text([0, 0]).float(), torch.randn(4, 8, 24)
    plain = sample_batch(task.transformer, noise, text, empty, settings)
    for keep, same in (([0, 0, 0, 0], True), ([1, 1, 0, 0], False)):
        with torch.no_grad(), conditioned(task.module, task.transformer, tokens, torch.tensor(keep).float()):
            assert torch.equal(sample_batch(task.transformer, noise, text, empty, settings), plain) is same


@pytest.mark.parametrize(
    ("name", "shape"),
    [("full", (16, 3, 4, 4)), ("first", (16, 1, 4, 4)), ("random", (16, 1, 4, 4)), ("oracle", (5,))],
)
def test_variants_read_what_they_are_for(tmp_path, name, shape):
    config = experiment(tmp_path, f"model.variant={name}", "run.steps=1")
    task = IdentityTask(config)
    batch = task.batch(0, range(4))
    assert batch["reference"].shape[1:] == shape
    if name == "first":
        whole = IdentityTask(experiment(tmp_path)).batch(0, range(4))
        assert torch.equal(batch["reference"], whole["reference"][:, :, :1])
    path = train(task, config, tmp_path / "run")
    metadata = read_header(path).metadata
    assert metadata["format"] == ("slot-id" if name == "full" else "slot-id-variant")
    if name != "full":
        assert metadata["variant"] == name
        with pytest.raises(SlotIDError, match="slot-id-variant"):
            SlotID.load(path)


def test_people_with_one_take_are_counted_or_refused(tmp_path):
    path = write_experiment(tmp_path)
    folder = tmp_path / "store"
    StoreWriter(folder, {"source": "tests"}, 3).add("target", entries("target", 1, 1, 9), random_part("target", 1))
    task = IdentityTask(load_experiment(path))
    assert task.report() == "6 targets of 6 people can be paired, 1 people left out with one take only"
    (folder / "reference_00000.safetensors").unlink()
    StoreWriter(folder, {"source": "tests"}, 3).add("reference", entries("target", 6, 1), random_part("reference", 6))
    with pytest.raises(SlotIDError, match="one take only"):
        IdentityTask(load_experiment(path))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("model.encoder.crop_size=64", "latent cells"),
        ("model.variant=nothing", "variant 'nothing'"),
        ("backbone.file=absent.safetensors", "absent.safetensors"),
        ("model.encoder.heads=3", "3 heads"),
        ("backbone.family=wan9", "wan9"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, change, found):
    config = experiment(tmp_path, change)
    with pytest.raises(SlotIDError) as error:
        IdentityTask(config)
    assert found in error.value.found


def test_bfloat16_loads_the_backbone_so_and_trains(tmp_path):
    config = experiment(tmp_path, "run.precision=bf16", "run.steps=2")
    task = IdentityTask(config)
    assert task.transformer.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16
    train(task, config, tmp_path / "run")
    assert all(p.dtype == torch.float32 for p in task.module.parameters())
