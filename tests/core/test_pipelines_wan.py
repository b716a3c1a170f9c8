"""Original-key Wan files in diffusers, latents in and out, sampling."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from slotid_core.errors import SlotIDError
from slotid_core.latents import WAN21_MEAN, WAN21_STD
from slotid_core.pipelines.wan import (
    decode_video,
    encode_video,
    flow_times,
    generate,
    load_wan_transformer,
    load_wan_vae,
    sample,
    transformer_config,
    vae_config,
)

from .wan_files import dit_shapes, random_tensors, vae_shapes, write_dit, write_vae

pytest.importorskip("diffusers")
TEXT = torch.randn(4, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    return write_dit(folder / "dit.safetensors"), write_vae(folder / "vae.safetensors")


@pytest.fixture(scope="module")
def transformer(files):
    return load_wan_transformer(files[0])


@pytest.fixture(scope="module")
def vae(files):
    return load_wan_vae(files[1])


def forward(transformer):
    latents = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return transformer(latents, torch.tensor([300.0]), TEXT[None], return_dict=False)[0]


@pytest.mark.parametrize("sizes", [{"width": 128, "depth": 1}, {"width": 256, "depth": 3, "ffn": 96}])
def test_transformer_of_any_size(tmp_path, sizes):
    model = load_wan_transformer(write_dit(tmp_path / "any name.safetensors", **sizes))
    assert model.config.num_attention_heads * 128 == sizes["width"] and len(model.blocks) == sizes["depth"]
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert torch.isfinite(forward(model)).all()


def test_every_tensor_of_the_file_reaches_the_model(files, transformer):
    stored, loaded = load_file(files[0]), transformer.state_dict()
    assert len(stored) == len(loaded)
    assert sorted(float(t.double().sum()) for t in stored.values()) == sorted(
        float(t.double().sum()) for t in loaded.values()
    )
    assert torch.equal(stored["blocks.1.norm3.bias"], loaded["blocks.1.norm2.bias"])


def test_prefix_and_file_name_change_nothing(tmp_path, transformer):
    prefixed = load_wan_transformer(write_dit(tmp_path / "vae.safetensors", prefix="model.diffusion_model."))
    assert torch.equal(forward(prefixed), forward(transformer))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path, transformer, stored):
    model = load_wan_transformer(write_dit(tmp_path / "half.safetensors", dtype=stored))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    error = (forward(model) - forward(transformer)).norm() / forward(transformer).norm()
    assert 0 < error < 0.05


def test_half_precision_in_memory_keeps_what_diffusers_keeps(files):
    model = load_wan_transformer(files[0], dtype=torch.bfloat16)
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    time = model.condition_embedder.time_embedder.linear_1
    assert model.scale_shift_table.dtype == time.weight.dtype == torch.float32


@pytest.mark.parametrize("base", [8, 16])
def test_vae_of_any_base_width(tmp_path, base):
    vae = load_wan_vae(write_vae(tmp_path / "vae.safetensors", base=base))
    assert vae.config.base_dim == base and not any(p.is_meta for p in vae.parameters())


def test_latents_are_the_posterior_mode_in_the_models_space(vae):
    frames = torch.rand(5, 16, 24, 3, generator=torch.Generator().manual_seed(2))
    latents = encode_video(vae)(frames)
    raw = vae.encode(frames.permute(3, 0, 1, 2)[None] * 2 - 1).latent_dist.mean[0]
    mean, std = torch.tensor(WAN21_MEAN).view(-1, 1, 1, 1), torch.tensor(WAN21_STD).view(-1, 1, 1, 1)
    assert latents.shape == (16, 2, 2, 3) and latents.dtype == torch.float32
    torch.testing.assert_close(latents, (raw - mean) / std)
    pixels = decode_video(vae, latents)
    assert pixels.shape == frames.shape and pixels.min() >= 0 and pixels.max() <= 1
    expected = (vae.decode(raw[None]).sample[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0)
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)


def refused(load, path):
    with pytest.raises(SlotIDError) as caught:
        load(path)
    return caught.value


def edited(path, source, edit):
    tensors = load_file(source)
    edit(tensors)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("load", [load_wan_transformer, load_wan_vae])
def test_refuses_what_is_no_safetensors(tmp_path, load):
    assert "no file" in refused(load, tmp_path / "missing.safetensors").found
    pickled = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(2)}, pickled)
    assert "pickle" in refused(load, pickled).found
    (tmp_path / "text.safetensors").write_text("hello, this is no model at all")
    assert "no whole safetensors file" in refused(load, tmp_path / "text.safetensors").found


def test_refuses_a_truncated_file(tmp_path, files):
    short = tmp_path / "short.safetensors"
    short.write_bytes(files[0].read_bytes()[:-1000])
    assert "bytes of data" in refused(load_wan_transformer, short).found


def test_names_the_kind_of_file_it_met(tmp_path, files):
    dit, vae = files
    assert "a Wan VAE" in refused(load_wan_transformer, vae).found
    assert "a Wan diffusion model" in refused(load_wan_vae, dit).found
    other = tmp_path / "other.safetensors"
    save_file({"unet.weight": torch.zeros(2)}, other)
    assert "unknown model (unet.weight)" in refused(load_wan_transformer, other).found
    assert "unknown model" in refused(load_wan_vae, other).found


def test_refuses_missing_unknown_and_misshaped_tensors(tmp_path, files):
    def drop(tensors):
        del tensors["blocks.1.ffn.2.bias"]

    def add(tensors):
        tensors["blocks.0.extra.weight"] = torch.zeros(3)

    def reshape(tensors):
        tensors["blocks.1.self_attn.q.weight"] = torch.zeros(128, 64)

    def drop_block(tensors):
        for name in [name for name in tensors if name.startswith("blocks.0.")]:
            tensors["blocks.7." + name.removeprefix("blocks.0.")] = tensors.pop(name)
        tensors["blocks.0.ffn.0.weight"] = tensors["blocks.7.ffn.0.weight"].clone()

    path = tmp_path / "edited.safetensors"
    missing = refused(load_wan_transformer, edited(path, files[0], drop))
    assert "missing tensors: 1 (blocks.1.ffn.net.2.bias)" in missing.found
    unknown = refused(load_wan_transformer, edited(path, files[0], add))
    assert "unknown tensors: 1 (blocks.0.extra.weight)" in unknown.found
    wrong = refused(load_wan_transformer, edited(path, files[0], reshape))
    assert "blocks.1.self_attn.q.weight has shape [128, 64]" in wrong.found and "[128, 128]" in wrong.expected
    assert "missing" in refused(load_wan_transformer, edited(path, files[0], drop_block)).found

    def drop_conv(tensors):
        del tensors["decoder.upsamples.3.time_conv.bias"]

    assert "missing tensors: 1" in refused(load_wan_vae, edited(path, files[1], drop_conv)).found


def test_refuses_other_variants_widths_and_types(tmp_path, files):
    path = tmp_path / "edited.safetensors"

    def image_to_video(tensors):
        tensors["img_emb.proj.0.bias"] = torch.zeros(4)

    def more_input(tensors):
        tensors["patch_embedding.weight"] = torch.zeros(128, 36, 1, 2, 2)

    def quantised(tensors):
        tensors["blocks.0.ffn.0.weight"] = tensors["blocks.0.ffn.0.weight"].to(torch.float8_e4m3fn)

    assert "Wan image-to-video" in refused(load_wan_transformer, edited(path, files[0], image_to_video)).found
    assert "takes 36 channels and gives 16" in refused(load_wan_transformer, edited(path, files[0], more_input)).found
    assert "F8_E4M3" in refused(load_wan_transformer, edited(path, files[0], quantised)).found
    save_file(random_tensors(dit_shapes(width=96)), path)
    assert "128 x heads" in refused(load_wan_transformer, path).expected
    write_vae(path, latent=48)
    assert "48 latent channels" in refused(load_wan_vae, path).found


def test_odd_shapes_are_no_wan_model():
    shapes = dit_shapes()
    assert transformer_config(shapes)["num_layers"] == 2
    for odd in ((), (128,), (128, 16, 0, 2, 2)):
        assert transformer_config({**shapes, "patch_embedding.weight": odd}) is None
    assert vae_config(vae_shapes())["base_dim"] == 8
    assert vae_config({**vae_shapes(), "encoder.conv1.weight": ()}) is None


def test_overlapping_tensors_are_refused(tmp_path, files):
    """The header's sums are right and its parts are not: only the reader of the tensors notices."""
    data = files[0].read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["blocks.0.norm3.bias"]["data_offsets"] = header["blocks.0.norm3.weight"]["data_offsets"]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    path = tmp_path / "overlapping.safetensors"
    path.write_bytes(data[:8] + text + data[8 + length :])
    assert "overlapping.safetensors" in refused(load_wan_transformer, path).found


def test_says_how_to_install_diffusers(monkeypatch, files):
    monkeypatch.setattr("slotid_core.pipelines.find_spec", lambda name: None)
    assert "pip install diffusers" in refused(load_wan_transformer, files[0]).remedy


def test_flow_times_are_comfyuis_simple_schedule():
    assert flow_times(4, 1.0) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert flow_times(4, 3.0) == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])
    # 1000 / 12 is no whole number; ComfyUI drops the fraction before it looks up its table.
    assert flow_times(12, 1.0)[1] == pytest.approx(0.917)


def test_sampling_follows_a_known_velocity(transformer):
    """With a model whose velocity is constant, Euler steps of any number and shift end at noise - velocity."""
    velocity = torch.randn(1, 16, 1, 2, 2, generator=torch.Generator().manual_seed(8))
    noise = torch.randn(1, 16, 1, 2, 2, generator=torch.Generator().manual_seed(9))

    class Constant(type(transformer)):
        def forward(self, hidden_states, timestep, encoder_hidden_states, **kwargs):
            seen.append((float(timestep[0]), float(encoder_hidden_states.mean())))
            # Text of ones asks for it once, of zeros not at all.
            return (velocity * encoder_hidden_states.mean(),)

    seen, done = [], []
    model = Constant(**{**transformer.config, "num_layers": 1})
    ones, zeros = torch.ones(4, 32), torch.zeros(4, 32)
    out = sample(model, noise, ones, zeros, steps=3, cfg=2.5, shift=4.0, progress=lambda *at: done.append(at))
    torch.testing.assert_close(out, noise - 2.5 * velocity, atol=1e-5, rtol=1e-5)
    assert [time for time, _ in seen] == pytest.approx([t * 1000 for t in flow_times(3, 4.0)[:-1] for _ in range(2)])
    assert done == [(1, 3), (2, 3), (3, 3)]
    seen.clear()
    sample(model, noise, ones, None, steps=2, cfg=1.0)
    assert [text for _, text in seen] == [1.0, 1.0]


def test_generate_is_seeded(transformer, vae):
    settings = {"frames": 5, "size": (16, 32), "steps": 2, "cfg": 1.0}
    one, again, other = (generate(transformer, vae, TEXT, seed=seed, **settings) for seed in (1, 1, 2))
    assert one.shape == (5, 16, 32, 3) and torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"frames": 8}, "frames = 8"),
        ({"size": (16, 20)}, "20 x 16"),
        ({"steps": 0}, "steps = 0"),
        ({"shift": 0.0}, "shift = 0"),
        ({"cfg": 3.0}, "without a negative"),
        ({"prompt_embeds": torch.zeros(4, 31)}, "prompt embedding of shape [4, 31]"),
    ],
)
def test_generate_refuses_settings(transformer, vae, change, found):
    settings = {"prompt_embeds": TEXT, "frames": 5, "size": (16, 16), "steps": 1, "cfg": 1.0, **change}
    with pytest.raises(SlotIDError) as caught:
        generate(transformer, vae, settings.pop("prompt_embeds"), **settings)
    assert found in caught.value.found
