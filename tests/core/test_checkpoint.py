"""Files from strangers: every way a Slot-ID model or identity file can be wrong, and what the user is told."""

import dataclasses
import json
import pickle
import zipfile

import pytest
import torch

from slotid_core import atomic, checkpoint
from slotid_core.config import SlotIDConfig
from slotid_core.errors import SlotIDError
from slotid_core.identity import Identity
from slotid_core.model import SlotID

from .models import TINY, fake_vae, saved_model, tiny_faces


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.safetensors"
    saved_model(path)
    return path


@pytest.fixture
def identity_file(tmp_path, model_file):
    path = tmp_path / "me.safetensors"
    SlotID.load(model_file).encode(tiny_faces(), fake_vae).save(path)
    return path


def rewrite(path, *, tensors=None, metadata=None):
    """Change a file's tensors or metadata (None removes an entry) behind the reader's back."""
    header = checkpoint.read_header(path)
    held = {n: t.clone() for n, t in checkpoint.safetensors.torch.load_file(path).items()} | (tensors or {})
    said = header.metadata | (metadata or {})
    checkpoint.write(
        path,
        {name: t for name, t in held.items() if t is not None},
        {name: text for name, text in said.items() if text is not None},
    )


def refusal(load, path):
    with pytest.raises(SlotIDError) as caught:
        load(path)
    error = caught.value
    assert error.found and error.expected and error.remedy
    assert str(error) == f"{error.found}\nExpected: {error.expected}\nWhat to do: {error.remedy}"
    return error


@pytest.fixture(params=["model", "identity"])
def case(request, model_file, identity_file):
    """Both kinds of file, with their readers."""
    return (SlotID.load, model_file) if request.param == "model" else (Identity.load, identity_file)


def test_missing_file(case, tmp_path):
    assert "no file" in refusal(case[0], tmp_path / "gone.safetensors").found


def test_pickle_renamed(case, tmp_path):
    path = tmp_path / "evil.safetensors"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"tokens": list(range(1000))}, protocol))
        assert "pickle" in refusal(case[0], path).found
    torch.save({"tokens": torch.zeros(3)}, path)
    assert zipfile.is_zipfile(path) and "pickle" in refusal(case[0], path).found


@pytest.mark.parametrize("data", [b"", b"abc", b"\0" * 8, b"\2\0\0\0\0\0\0\0{}", b"not a model " * 50, b"\xff" * 64])
def test_not_a_safetensors_file(case, tmp_path, data):
    path = tmp_path / "junk.safetensors"
    path.write_bytes(data)
    refusal(case[0], path)


def test_header_of_100_megabytes(case, tmp_path):
    path = tmp_path / "huge.safetensors"
    with open(path, "wb") as file:
        file.write((100 * 2**20).to_bytes(8, "little"))
        file.truncate(8 + 100 * 2**20)
    error = refusal(lambda p: checkpoint.read_header(p), path)
    assert "header of 100.0 MB" in error.found
    refusal(case[0], path)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated(case, keep):
    load, path = case
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    refusal(load, path)


def test_trailing_bytes(case):
    load, path = case
    path.write_bytes(path.read_bytes() + b"more")
    assert "bytes of data" in refusal(load, path).found


@pytest.mark.parametrize(
    "spec",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]},
        {"dtype": "F32"},
        [1, 2],
        None,
    ],
)
def test_lying_headers(case, tmp_path, spec):
    path = tmp_path / "lies.safetensors"
    text = json.dumps({"__metadata__": {"format": "slot-id"}, "tokens": spec}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    refusal(case[0], path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan(case, bad):
    load, path = case
    name, tensor = next(
        (n, t) for n, t in checkpoint.safetensors.torch.load_file(path).items() if t.is_floating_point() and t.ndim == 2
    )
    tensor[0, -1] = bad
    rewrite(path, tensors={name: tensor})
    assert f"NaN or infinity in {name}" in refusal(load, path).found


def test_missing_tensor(case):
    load, path = case
    # The last by name is one that no file may lack; an identity's routing and evidence may be absent.
    name = sorted(checkpoint.read_header(path).tensors)[-1]
    rewrite(path, tensors={name: None})
    error = refusal(load, path)
    assert name in error.found and "lacks" in error.found


def test_extra_tensor(case):
    load, path = case
    rewrite(path, tensors={"backdoor": torch.zeros(2)})
    assert "holds the unknown backdoor" in refusal(load, path).found


def test_newer_version(case):
    load, path = case
    rewrite(path, metadata={"format_version": "2"})
    error = refusal(load, path)
    assert "version '2'" in error.found and "update" in error.remedy


@pytest.mark.parametrize("metadata", [{"format": "other"}, {"format": None}, {"format_version": "one"}])
def test_other_formats(case, metadata):
    load, path = case
    rewrite(path, metadata=metadata)
    refusal(load, path)


def test_each_kind_is_refused_where_the_other_is_wanted(model_file, identity_file):
    assert "slot-id-identity" in refusal(SlotID.load, identity_file).found
    assert "'slot-id'" in refusal(Identity.load, model_file).found


def test_wrong_shape_and_dtype(model_file, identity_file):
    rewrite(model_file, tensors={"encoder.reader.initial": torch.zeros(3, 3)})
    error = refusal(SlotID.load, model_file)
    assert "encoder.reader.initial" in error.found and "4x32" in error.expected
    rewrite(identity_file, tensors={"tokens": torch.zeros(8, 24, dtype=torch.int64)})
    assert "I64" in refusal(Identity.load, identity_file).found


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"backbone": 3}', "[" * 100_000])
def test_broken_config(model_file, text):
    rewrite(model_file, metadata={"config": text})
    refusal(SlotID.load, model_file)


@pytest.mark.parametrize(
    ("part", "entry", "value"),
    [
        ("encoder", "width", -1),
        ("encoder", "width", True),
        ("encoder", "width", 10**9),
        ("encoder", "heads", 3),
        ("encoder", "slots", 129),
        ("encoder", "eps", 0),
        ("encoder", "eps", "small"),
        ("encoder", "iterations", 2.5),
        ("encoder", "crop_size", 60),
        ("encoder", "unknown", 1),
        ("conditioning", "heads", 5),
        ("conditioning", "stride", 9),
        ("backbone", "family", "sd1.5"),
        ("backbone", "depth", 900_000),
        ("backbone", "latent_channels", 12),
    ],
)
def test_senseless_config(model_file, part, entry, value):
    config = TINY.to_dict()
    config[part][entry] = value
    rewrite(model_file, metadata={"config": json.dumps(config)})
    refusal(SlotID.load, model_file)


def test_config_round_trip_and_missing_entry():
    assert SlotIDConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
    config = TINY.to_dict()
    del config["encoder"]["eps"]
    with pytest.raises(SlotIDError, match="eps"):
        SlotIDConfig.from_dict(config)


@pytest.mark.parametrize("entry", ["backbone", "coverage", "frames_used", "model_hash"])
@pytest.mark.parametrize("text", [None, "{"])
def test_identity_metadata_damaged(identity_file, entry, text):
    if entry == "model_hash" and text is not None:
        text = None
    rewrite(identity_file, metadata={entry: text})
    assert "metadata" in refusal(Identity.load, identity_file).found


def test_identity_too_large(tmp_path):
    path = tmp_path / "big.safetensors"
    with open(path, "wb") as file:
        file.truncate(17 * 2**20)
    assert "17.0 MB" in refusal(Identity.load, path).found


def test_model_round_trip_gives_the_same_bytes(tmp_path, model_file):
    again = tmp_path / "again.safetensors"
    SlotID.load(model_file).save(again, trained_on="nothing (tests)", license="Apache-2.0")
    assert again.read_bytes() == model_file.read_bytes()


def test_half_precision_model_loads_as_float32(tmp_path, model_file):
    small = tmp_path / "small.safetensors"
    SlotID.load(model_file).save(small, trained_on="", license="", dtype=torch.float16)
    assert small.stat().st_size < 0.7 * model_file.stat().st_size
    assert {p.dtype for p in SlotID.load(small).parameters()} == {torch.float32}


def test_identity_round_trip(identity_file):
    identity = Identity.load(identity_file)
    again = identity_file.with_name("again.safetensors")
    identity.save(again)
    assert again.read_bytes() == identity_file.read_bytes()
    loaded = Identity.load(again)
    for field in dataclasses.fields(Identity):
        one, other = getattr(identity, field.name), getattr(loaded, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, field.name


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "keep.safetensors"
    checkpoint.write(path, {"tokens": torch.zeros(3)}, {})
    old = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "replace", full)
    with pytest.raises(SlotIDError, match="No space"):
        checkpoint.write(path, {"tokens": torch.ones(3)}, {})
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["keep.safetensors"]
