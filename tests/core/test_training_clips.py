"""Recorded clips to a pair store: the manifest, what is left out, where the face is, and captions."""

import json
from fractions import Fraction

import pytest
import torch

from slotid_core.cli import main
from slotid_core.errors import SlotIDError
from slotid_core.faces import prepare_faces
from slotid_core.training import clips
from slotid_core.training.clips import ClipsSection, cut_target, read_manifest
from slotid_core.training.config import build
from slotid_core.training.data import PairStore
from slotid_core.video import Clip, save_video

from .training_files import TEXT_WIDTH, write_experiment
from .wan_files import write_vae

pytest.importorskip("diffusers")
GOOD = {"person": "ann", "take": "1", "video": "a.mp4", "caption": "ann speaks"}


def write_clip(path, frames, seed):
    """A moving pattern of 48 x 32 pixels; frames that do not differ would not survive as many."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(frames, 3, 4, 6, generator=generator)
    save_video(path, torch.nn.functional.interpolate(low, (32, 48)).movedim(1, -1), 16)


def write_manifest(path, lines):
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config whose clips are recorded ones; the text encoder is left to another test."""

    def embedder(folder, device):
        assert folder.name == "umt5"
        return lambda caption: torch.full((1 + len(caption) % 3, TEXT_WIDTH), float(len(caption)))

    monkeypatch.setattr(clips, "caption_embedder", embedder)
    path = write_experiment(tmp_path)
    write_vae(tmp_path / "vae.safetensors")
    for name, frames, seed in (("a", 9, 0), ("b", 9, 1), ("short", 5, 2)):
        write_clip(tmp_path / f"{name}.mp4", frames, seed)
    section = f"""
[data]
store = "{tmp_path.as_posix()}/clips"
vae = "{tmp_path.as_posix()}/vae.safetensors"
[data.clips]
manifest = "{tmp_path.as_posix()}/clips.jsonl"
text_encoder = "umt5"
detector = "whole_frame"
reference_frames = 5
target_frames = 9
crop_size = 32
width = 32
height = 32
"""
    text = path.read_text()
    path.write_text(section + text[text.index("[backbone]") :].replace("[backbone]", "[backbone]", 1))
    path.write_text('task = "identity"\n' + path.read_text())
    return path


def test_clips_become_pairs(tmp_path, config, capsys):
    lines = [
        GOOD,
        {**GOOD, "take": "2", "video": "b.mp4", "caption": "ann smiles"},
        {**GOOD, "person": "bob", "video": "b.mp4", "caption": "ann speaks"},
        {**GOOD, "person": "bob", "take": "2", "video": "short.mp4"},
        {**GOOD, "person": "cleo", "video": "absent.mp4"},
    ]
    write_manifest(tmp_path / "clips.jsonl", lines)
    assert main(["train", "cache", str(config)]) == 0
    said = capsys.readouterr()
    assert "3 references, 3 targets" in said.out and "1 people left out" in said.out
    assert "left out: bob, 2: 5 of 9 frames" in said.err + said.out
    assert "left out: cleo, 1: no file" in said.err + said.out
    store = PairStore(tmp_path / "clips")
    assert store.alone == ["bob"] and store.text_tokens == 512
    assert store.targets.shape("latents") == (16, 3, 4, 4) and store.references.shape("latents") == (16, 2, 4, 4)
    assert store.references.shape("saliency") == (2, 4, 4) and store.targets.shape("face") == (3, 4, 4)
    assert store.targets.entries[0].source == "a.mp4"
    numbers = store.targets.take("text", range(3)).tolist()
    assert numbers[0] == numbers[2] != numbers[1] and 0 not in numbers
    assert store.text([numbers[1]])[0, 0, 0] == len("ann smiles")

    # Again: nothing is made twice. Further lines join.
    before = {path.name: path.read_bytes() for path in (tmp_path / "clips").iterdir()}
    assert main(["train", "cache", str(config)]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "clips").iterdir()} == before
    write_manifest(tmp_path / "clips.jsonl", [*lines, {**GOOD, "person": "bob", "take": "3"}])
    write_clip(tmp_path / "absent.mp4", 9, 3)
    assert main(["train", "cache", str(config)]) == 0
    assert PairStore(tmp_path / "clips").alone == ["cleo"]
    assert "left out: bob, 2" not in capsys.readouterr().out
    # And a model trains on them, saliency and all.
    assert main(["train", str(config), "-o", str(tmp_path / "run"), "--set", "run.steps=1"]) == 0


def test_a_part_interrupted_between_its_roles_is_finished(tmp_path, config):
    write_manifest(tmp_path / "clips.jsonl", [GOOD, {**GOOD, "take": "2", "video": "b.mp4"}])
    assert main(["train", "cache", str(config)]) == 0
    (tmp_path / "clips/target_00000.safetensors").unlink()
    assert main(["train", "cache", str(config)]) == 0
    store = PairStore(tmp_path / "clips")
    assert (len(store.references), len(store.targets)) == (2, 2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "line 2: no JSON"),
        ("[1]", "line 2: [1]"),
        (json.dumps({**GOOD, "take": 2}), "line 2"),
        (json.dumps({key: GOOD[key] for key in ("person", "take", "video")}), "line 2"),
        (json.dumps({**GOOD, "take": "2", "end": 3}), "line 2"),
        (json.dumps({**GOOD, "take": "2", "start": -1}), "start = -1"),
        (json.dumps({**GOOD, "take": "2", "start": True}), "start = True"),
        (json.dumps(GOOD), "a second time"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    path = tmp_path / "clips.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(SlotIDError) as error:
        list(read_manifest(path))
    assert said in error.value.found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.clips.manifest=absent.jsonl", "absent.jsonl"),
        ("data.clips.manifest=", "one source"),
        ("data.demo.people=4", "one source"),
        ("data.clips.target_frames=8", "target_frames = 8"),
        ("data.clips.width=40", "width = 40"),
        ("data.vae=absent.safetensors", "absent.safetensors"),
    ],
)
def test_what_cannot_be_cached_is_told(tmp_path, config, capsys, change, said):
    write_manifest(tmp_path / "clips.jsonl", [GOOD])
    assert main(["train", "cache", str(config), "--set", change]) == 1
    assert said in capsys.readouterr().err


def test_the_target_is_cut_around_the_face():
    """A face at the right edge of a wide clip stays in the picture, and its cells are marked."""
    pixels = torch.zeros(5, 64, 256, 3)
    clip = Clip(pixels, torch.arange(5, dtype=torch.float64) / 16, Fraction(16), "wide.mp4", "ab" * 32)

    class Detector:
        name = "given"

        def detect(self, frame, index):
            from slotid_core.detectors import Box

            return [Box(x0=200.0, y0=16.0, x1=232.0, y1=48.0, score=1.0)]

    for i in range(5):
        pixels[i, 16:48, 200:232] = 1.0
    section = build(ClipsSection, {"target_frames": 5, "reference_frames": 5, "width": 64, "height": 64})
    frames, face = cut_target(clip, prepare_faces(clip, detector=Detector(), size=64), section)
    assert frames.shape == (5, 64, 64, 3) and face.shape == (2, 8, 8)
    inside = frames[:, ::8, ::8, 0].mean()
    assert inside > 0.1, "the face was cut away"
    bright = torch.nn.functional.avg_pool2d(frames.movedim(-1, 1), 8)[:, 0]
    assert face[0][bright[0] > 0.9].mean() > 0.7 and face[0][bright[0] < 0.1].mean() < 0.15


def test_captions_are_embedded_as_wan_does(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    torch.manual_seed(0)
    transformers.UMT5EncoderModel(transformers.UMT5Config(**sizes)).save_pretrained(tmp_path / "text_encoder")
    words = {word: i for i, word in enumerate(["<pad>", "<unk>", "a", "person", "smiles", "&"])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(tmp_path / "tokenizer")
    embed = clips.caption_embedder(tmp_path, torch.device("cpu"))
    assert embed("a person smiles").shape == (3, 16)
    torch.testing.assert_close(embed("a  person &amp;amp; person"), embed("a person & person"))
    with pytest.raises(SlotIDError, match="no readable text encoder"):
        clips.caption_embedder(tmp_path / "tokenizer", torch.device("cpu"))
