"""The command `slotid` on tiny models: what it writes, what it says, how it ends."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from slotid_core import cli
from slotid_core.commands.common import CAPTION_HEIGHT, UNTRAINED, presentable, untrained
from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.identity import Identity
from slotid_core.model import SlotID
from slotid_core.video import load_video, save_video

from .models import saved_model
from .wan_files import write_dit, write_vae

pytest.importorskip("diffusers")
CONFIG = SlotIDConfig(
    Backbone("wan2.1", width=128, depth=2),
    EncoderConfig(width=32, depth=1, heads=2, slots=4, crop_size=64),
    ConditioningConfig(inner_width=16, heads=2, stride=1),
    identity_width=24,
)
COMMANDS = ("demo", "encode", "generate", "inspect", "likeness")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a clip and one of each model."""
    folder = tmp_path_factory.mktemp("tiny")
    saved_model(folder / "slotid.safetensors", CONFIG)
    saved_model(folder / "other.safetensors", CONFIG, seed=5)
    write_dit(folder / "dit.safetensors")
    write_vae(folder / "vae.safetensors")
    generator = torch.Generator().manual_seed(0)
    texts = {name: torch.randn(4, 32, generator=generator) for name in ("prompt", "negative")}
    save_file(texts, folder / "text.safetensors")
    save_file({"prompt": texts["prompt"]}, folder / "prompt only.safetensors")
    save_video(folder / "clip.mp4", torch.rand(9, 64, 64, 3, generator=generator), 16)
    encode = ["encode", folder / "clip.mp4", "--detector", "whole_frame", *models(folder)]
    assert slotid(*encode, "-o", folder / "me.safetensors") == 0
    return folder


def models(folder):
    return "--model", folder / "slotid.safetensors", "--vae", folder / "vae.safetensors"


def generating(folder, output, *options, text="text.safetensors"):
    fixed = ("--transformer", folder / "dit.safetensors", "--prompt-embeds", folder / text, "--frames", "5")
    return "generate", "-o", output, *models(folder), *fixed, "--size", "32x16", "--steps", "2", *options


def slotid(*args):
    return cli.main([str(arg) for arg in args])


def told(capsys, *parts):
    """A refusal as users see it: found, expected, what to do, and nothing of Python."""
    said = capsys.readouterr().err
    assert "\nExpected: " in said and "\nWhat to do: " in said and "Traceback" not in said
    for part in parts:
        assert part in said


def usage_error(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        slotid(*args)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(capsys, command):
    with pytest.raises(SystemExit) as caught:
        slotid(command, "--help")
    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert "examples:" in said and f"\n  slotid {command}" in said
    with pytest.raises(SystemExit):
        slotid("--help")
    assert f"    {command} " in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_the_help_are_valid_usage(command):
    import importlib
    import shlex

    module = importlib.import_module(f"slotid_core.commands.{command}")
    text = module.EXAMPLES.replace("\\\n", " ")
    lines = [line.strip().split("    ")[0] for line in text.splitlines() if line.strip().startswith("slotid ")]
    assert lines
    for line in lines:
        assert cli.build_parser().parse_args(shlex.split(line)[1:]).run is module.run


def test_wrong_usage_ends_with_2(capsys, tiny, tmp_path):
    assert "COMMAND" in usage_error(capsys)
    assert "invalid choice" in usage_error(capsys, "paint")
    assert "largest, leftmost" in usage_error(capsys, "encode", "clip.mp4", "--person", "me")
    output = ("generate", "-o", tmp_path / "a.mp4")
    assert "832x480" in usage_error(capsys, *output, "--size", "big")
    assert "far left" in usage_error(capsys, *output, "--prompt-pose", "upwards")
    assert "--text-encoder" in usage_error(capsys, *output, "--prompt", "a person")
    assert "a prompt is needed" in usage_error(capsys, *output, "--transformer", tiny / "dit.safetensors")
    both = ("--prompt-embeds", tiny / "text.safetensors", "--prompt-pose", "left")
    assert "give one of" in usage_error(capsys, *output, *both)


def test_encode_writes_the_same_small_file_twice(capsys, tiny, tmp_path):
    encode = ("encode", tiny / "clip.mp4", "--detector", "whole_frame", *models(tiny), "--consent", "mine")
    for name in ("one.safetensors", "two.safetensors"):
        assert slotid(*encode, "-o", tmp_path / name, "--sheet", tmp_path / f"{name}.png") == 0
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert (tmp_path / "one.safetensors").stat().st_size < 1_000_000
    assert (tmp_path / "one.safetensors.png").stat().st_size > 1000
    identity = Identity.load(tmp_path / "one.safetensors")
    assert identity.source == "clip.mp4" and identity.consent == "mine" and len(identity.frames_used) == 9
    identity.check_model(SlotID.load(tiny / "slotid.safetensors"))
    assert "8 identity tokens" in capsys.readouterr().out


def test_encode_writes_beside_the_clip_unless_told(tiny, tmp_path):
    clip = tmp_path / "someone.mp4"
    clip.write_bytes((tiny / "clip.mp4").read_bytes())
    assert slotid("encode", clip, "--detector", "whole_frame", *models(tiny)) == 0
    assert Identity.load(tmp_path / "someone.identity.safetensors").source == "someone.mp4"


def test_existing_files_need_force(capsys, tiny, tmp_path):
    output = tmp_path / "me.safetensors"
    output.write_text("precious")
    encode = ("encode", tiny / "clip.mp4", "--detector", "whole_frame", *models(tiny), "-o", output)
    assert slotid(*encode) == 1
    told(capsys, "exists already", "--force")
    assert output.read_text() == "precious"
    assert slotid(*encode, "--force") == 0
    assert Identity.load(output).source == "clip.mp4"


def test_encode_refuses(capsys, tiny, tmp_path):
    good = ("--detector", "whole_frame", *models(tiny), "-o", tmp_path / "me.safetensors")
    assert slotid("encode", tmp_path / "missing.mp4", *good) == 1
    told(capsys, "missing.mp4")
    assert slotid("encode", tiny / "vae.safetensors", *good) == 1
    told(capsys, "vae.safetensors")
    assert slotid("encode", tiny / "clip.mp4", *good, "-o", tmp_path / "me.txt") == 1
    told(capsys, "'me.txt'", ".safetensors")
    assert slotid("encode", tiny / "clip.mp4", *good, "-o", tmp_path / "nowhere" / "me.safetensors") == 1
    told(capsys, "nowhere")
    torch.save({}, tmp_path / "pickled.safetensors")
    assert slotid("encode", tiny / "clip.mp4", *good, "--model", tmp_path / "pickled.safetensors") == 1
    told(capsys, "pickle")
    assert slotid("encode", tiny / "clip.mp4", *good, "--vae", tiny / "dit.safetensors") == 1
    told(capsys, "a Wan diffusion model")
    assert slotid("encode", tiny / "clip.mp4", *good, "--device", "abacus") == 1
    told(capsys, "--device abacus")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pickled.safetensors"]


def test_a_photo_works_with_a_note(capsys, tiny, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.png")
    output = ("-o", tmp_path / "me.safetensors")
    assert slotid("encode", tmp_path / "photo.png", "--detector", "whole_frame", *models(tiny), *output) == 0
    said = capsys.readouterr().err
    assert "Note: " in said and "SlotIDWarning" not in said


def test_generate_carries_the_identity(tiny, tmp_path):
    def video(name, *options):
        output = tmp_path / f"{name}.mp4"
        assert slotid(*generating(tiny, output, *options)) == 0
        return output

    identity = ("--identity", tiny / "me.safetensors")
    plain, with_me = video("plain"), video("with me", *identity)
    assert load_video(plain).frames.shape == (5, 256, 512, 3)
    assert with_me.read_bytes() == video("again", *identity).read_bytes() != plain.read_bytes()
    assert video("off", *identity, "--strength", "0").read_bytes() == plain.read_bytes()
    assert video("other seed", *identity, "--seed", "1").read_bytes() != with_me.read_bytes()
    assert video("guided by it", *identity, "--identity-cfg", "3").read_bytes() != with_me.read_bytes()
    assert video("without it", *identity, "--identity-cfg", "0").read_bytes() == plain.read_bytes()
    assert slotid(*generating(tiny, tmp_path / "s.mp4", "--sheet", tmp_path / "s.png")) == 0
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_generate_refuses(capsys, tiny, tmp_path):
    output = tmp_path / "out.mp4"
    made_by_another = ("--identity", tiny / "me.safetensors", "--model", tiny / "other.safetensors")
    assert slotid(*generating(tiny, output, *made_by_another)) == 1
    told(capsys, "'slotid.safetensors'", "'other.safetensors'")
    assert slotid(*generating(tiny, output, text="prompt only.safetensors")) == 1
    told(capsys, "negative")
    assert slotid(*generating(tiny, output, text="prompt only.safetensors"), "--cfg", "1") == 0
    output.unlink()
    assert slotid(*generating(tiny, output, text="me.safetensors")) == 1
    told(capsys, "lacks prompt")
    assert slotid(*generating(tiny, output, "--frames", "6")) == 1
    told(capsys, "4k + 1")
    assert slotid(*generating(tiny, output, "--identity", tiny / "slotid.safetensors")) == 1
    told(capsys, "slot-id-identity")
    assert (
        slotid(*generating(tiny, output, "--identity", tiny / "me.safetensors", "--start", "0.9", "--end", "0.1")) == 1
    )
    told(capsys, "start = 0.9")
    wider = write_dit(tmp_path / "wider.safetensors", width=256)
    assert slotid(*generating(tiny, output, "--identity", tiny / "me.safetensors", "--transformer", wider)) == 1
    told(capsys, "width 256", "width 128")
    assert [path.name for path in tmp_path.iterdir()] == ["wider.safetensors"]


@pytest.mark.parametrize("when", ["sampling", "writing"])
def test_ctrl_c_leaves_nothing_half_written(capsys, monkeypatch, tiny, tmp_path, when):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    if when == "sampling":
        monkeypatch.setattr("slotid_core.pipelines.wan.decode_video", interrupted)
    else:
        # The last moment: the whole video lies in a temporary file.
        monkeypatch.setattr(os, "replace", interrupted)
    kept = tmp_path / "out.mp4"
    kept.write_text("the video before")
    assert slotid(*generating(tiny, kept, "--force")) == 130
    assert "stopped" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"] and kept.read_text() == "the video before"


def test_inspect_names_every_kind_of_file(capsys, tiny):
    names = ("me.safetensors", "slotid.safetensors", "dit.safetensors", "vae.safetensors", "clip.mp4")
    assert slotid("inspect", *(tiny / name for name in names)) == 0
    said = capsys.readouterr().out
    for words in (
        "An identity: 8 tokens of width 24",
        "Read from clip.mp4: 9 frames",
        "A Slot-ID model for wan2.1, width 128, 2 blocks, 16 latent channels",
        "Trained on: nothing (tests)",
        "A Wan diffusion model",
        "Width 128 (1 heads), 2 blocks",
        "A VAE in the Wan 2.1 layout",
        "Base width 8, 16 latent channels",
        "A video of 64 x 64 pixels: 9 frames",
        "up to 9 frames",
    ):
        assert words in said


def test_inspect_refuses(capsys, tiny, tmp_path):
    assert slotid("inspect", tmp_path / "missing") == 1
    told(capsys, "no file")
    assert slotid("inspect", tiny / "text.safetensors") == 1
    told(capsys, "unknown model (negative, prompt)")
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.bin")
    assert slotid("inspect", tmp_path / "weights.bin") == 1
    told(capsys, "pickle")
    (tmp_path / "notes.txt").write_text("hello")
    assert slotid("inspect", tmp_path / "notes.txt") == 1
    told(capsys, "notes.txt")


def test_a_text_encoder_gives_what_the_stock_pipeline_gives(tmp_path):
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    from slotid_core.commands.prompts import encode_text

    config = transformers.UMT5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    encoder = transformers.UMT5EncoderModel(config).eval()
    encoder.save_pretrained(tmp_path / "text_encoder")
    tokenizer = tiny_tokenizer(transformers)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    prompt, negative = encode_text("a  person &amp; a sea", "blur", tmp_path)
    pipe = diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=diffusers.AutoencoderKLWan(base_dim=8),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    with torch.no_grad():
        expected = pipe.encode_prompt("a  person &amp; a sea", "blur", max_sequence_length=512)
    torch.testing.assert_close(prompt, expected[0][0])
    torch.testing.assert_close(negative, expected[1][0])
    assert prompt.shape == (512, 16) and prompt[0].abs().sum() > 0 and prompt[-1].abs().sum() == 0


def tiny_tokenizer(transformers):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", "a", "person", "&", "sea", "blur"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def test_a_folder_without_a_text_encoder_is_refused(capsys, tiny, tmp_path):
    arguments = ("generate", "-o", tmp_path / "a.mp4", *models(tiny), "--transformer", tiny / "dit.safetensors")
    assert slotid(*arguments, "--prompt", "a person", "--text-encoder", tmp_path) == 1
    told(capsys, "no readable text encoder")


def test_untrained_pictures_say_so():
    frames = torch.zeros(2, 64, 64, 3)
    assert presentable(frames, "").shape == (2, 256, 256, 3) and presentable(frames, "").max() == 0
    shown = presentable(frames, UNTRAINED)
    assert shown.shape[1] > 256 and shown[:, :256].max() == 0 and shown[:, 256:].max() > 0.9
    assert torch.equal(presentable(torch.rand(1, 480, 832, 3).round(), "")[0].unique(), torch.tensor([0.0, 1.0]))


def test_demo_goes_the_whole_way(capsys, tmp_path):
    """On the packaged models: a sheet, an identity, a video and its frames; never over what is there."""
    from slotid_core.demo.files import demo_files

    output = tmp_path / "demo"
    assert slotid("demo", "-o", output) == 0
    assert {path.name for path in output.iterdir()} == {
        "reference.png",
        "identity.safetensors",
        "video.mp4",
        "frames.png",
        "routing.png",
    }
    Identity.load(output / "identity.safetensors").check_model(SlotID.load(demo_files().slot_id))
    words = untrained(SlotID.load(demo_files().slot_id).metadata)
    frames = load_video(output / "video.mp4").frames
    assert frames.shape == (17, 256 + CAPTION_HEIGHT * bool(words), 256, 3)
    assert (words in capsys.readouterr().out) and slotid("demo", "-o", output) == 1
    told(capsys, "exists already")


def test_weights_say_whether_they_are_trained():
    for said in ("a world; demo weights, not trained, seed 0", "a world; demo weights, briefly trained, seed 0"):
        assert untrained({"trained_on": said}) == UNTRAINED
    assert untrained({"trained_on": "a world; demo weights, 200000 steps"}) == untrained({}) == ""


def test_runs_as_a_module():
    command = [sys.executable, "-m", "slotid_core", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("slotid 0.")


def test_a_reader_that_leaves_is_no_error_of_a_file():
    """`slotid inspect FILE | head -0`: quiet, with the code that a broken pipe has in a shell."""
    from slotid_core.demo.files import demo_files

    command = [sys.executable, "-u", "-m", "slotid_core", "inspect", str(demo_files().slot_id)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141
