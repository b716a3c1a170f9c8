"""The identity conditioning on diffusers' Wan transformer: on inside the block, gone after it."""

import copy
import math
from contextlib import ExitStack

import pytest
import torch

from slotid_core.conditioning import apply_residual
from slotid_core.config import Backbone, ConditioningConfig, EncoderConfig, SlotIDConfig
from slotid_core.errors import SlotIDError
from slotid_core.model import SlotID
from slotid_core.pipelines.diffusers_adapter import condition_transformer, flow_range
from slotid_core.pipelines.wan import flow_times, generate, load_wan_transformer, load_wan_vae, sample

from .models import saved_model
from .wan_files import random_identity, write_dit, write_vae

diffusers = pytest.importorskip("diffusers")
CONFIG = SlotIDConfig(
    Backbone("wan2.1", width=128, depth=4),
    EncoderConfig(width=32, depth=1, heads=2, slots=4, crop_size=64),
    ConditioningConfig(inner_width=16, heads=2, stride=2),
    identity_width=24,
)
GENERATOR = torch.Generator().manual_seed(4)
PROMPT, NEGATIVE = torch.randn(4, 32, generator=GENERATOR), torch.randn(4, 32, generator=GENERATOR)
LATENTS = torch.randn(2, 16, 2, 4, 4, generator=GENERATOR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    write_dit(folder / "dit.safetensors", depth=4)
    write_vae(folder / "vae.safetensors")
    saved_model(folder / "slotid.safetensors", CONFIG)
    return folder


@pytest.fixture(scope="module")
def transformer(folder):
    return load_wan_transformer(folder / "dit.safetensors")


@pytest.fixture(scope="module")
def vae(folder):
    return load_wan_vae(folder / "vae.safetensors")


@pytest.fixture(scope="module")
def slotid(folder):
    return SlotID.load(folder / "slotid.safetensors")


@pytest.fixture(scope="module")
def identity(slotid):
    return random_identity(slotid)


def forward(transformer, time=0.6, latents=LATENTS):
    times = torch.full((len(latents),), time * 1000) if isinstance(time, float) else time * 1000
    with torch.no_grad():
        return transformer(latents, times, PROMPT.to(latents).expand(len(latents), -1, -1), return_dict=False)[0]


def state(transformer):
    """Everything a hook could have left."""
    modules = {name: dict(vars(module)) for name, module in transformer.named_modules()}
    hooks = {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in transformer.named_modules()}
    return {name: sorted(values) for name, values in modules.items()}, hooks


def test_on_inside_gone_outside(transformer, slotid, identity):
    before, kept = forward(transformer), state(transformer)
    with slotid.condition(transformer, identity):
        inside = forward(transformer)
    assert torch.equal(forward(transformer), before) and state(transformer) == kept
    assert (inside - before).norm() > 0.01 * before.norm()


def test_the_residual_is_the_one_of_the_core(transformer, slotid, identity):
    """The same forward, with the blocks' outputs computed by hand from the core's formula."""
    conditioning, seen = slotid.conditioning, {}
    prepared, gates = conditioning.prepare(identity.tokens), conditioning.gate(torch.tensor([0.6, 0.6]), torch.float32)

    def record(index):
        def hook(module, args, kwargs, output):
            seen[index] = output

        return transformer.blocks[index].register_forward_hook(hook, with_kwargs=True)

    # Registered first, so it sees each block's own output before the residual is added.
    handles = [record(index) for index in range(4)]
    after = []
    with slotid.condition(transformer, identity, strength=0.7):
        handles.append(transformer.blocks[1].register_forward_hook(lambda module, args, output: after.append(output)))
        forward(transformer)
    for handle in handles:
        handle.remove()
    residual = conditioning.residual(1, seen[1], prepared, gates[1])
    torch.testing.assert_close(after[0], seen[1] + 0.7 * residual)
    assert conditioning.blocks_used == (1, 3)


def test_strength_zero_hooks_nothing(transformer, slotid, identity):
    before, kept = forward(transformer), state(transformer)
    with slotid.condition(transformer, identity, strength=0.0):
        assert state(transformer) == kept
        assert torch.equal(forward(transformer), before)


def test_strength_scales_and_nesting_adds(transformer, slotid, identity):
    before = forward(transformer)

    def effect(*strengths):
        with ExitStack() as stack:
            for strength in strengths:
                stack.enter_context(slotid.condition(transformer, identity, strength=strength))
            return (forward(transformer) - before).norm()

    assert effect(0.1) < effect(0.5) < effect(1.0)
    assert effect(1e-3) == pytest.approx(float(effect(2e-3)) / 2, rel=0.05)
    assert effect(0.5, 0.5) == pytest.approx(float(effect(1.0)), rel=0.2)


@pytest.mark.parametrize("failing", ["body", "transformer"])
def test_hooks_leave_after_exceptions(transformer, slotid, identity, failing):
    before, kept = forward(transformer), state(transformer)
    with pytest.raises(RuntimeError), slotid.condition(transformer, identity), transformer.cache_context("uncond"):
        if failing == "body":
            raise RuntimeError
        transformer(LATENTS[:, :3], torch.zeros(2), PROMPT.expand(2, -1, -1))
    del transformer._diffusers_hook  # diffusers' own cache_context leaves its registry
    assert state(transformer) == kept and torch.equal(forward(transformer), before)


def test_unconditional_calls_are_untouched(transformer, slotid, identity):
    before = forward(transformer)
    with slotid.condition(transformer, identity):
        with transformer.cache_context("uncond"):
            assert torch.equal(forward(transformer), before)
        with transformer.cache_context("cond"):
            conditional = forward(transformer)
        assert torch.equal(forward(transformer), conditional)
    assert not torch.equal(conditional, before)
    del transformer._diffusers_hook


def test_stock_pipeline_conditions_the_prompt_alone(transformer, vae, slotid, identity):
    """Guidance in WanPipeline is what it is by hand with only the prompt's call conditioned."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=scheduler
    )
    pipe.set_progress_bar_config(disable=True)

    def stock():
        result = pipe(
            prompt_embeds=PROMPT[None],
            negative_prompt_embeds=NEGATIVE[None],
            height=32,
            width=32,
            num_frames=5,
            num_inference_steps=3,
            guidance_scale=2.5,
            latents=LATENTS[:1].clone(),
            output_type="latent",
        )
        return result.frames

    plain = stock()
    torch.testing.assert_close(_by_hand(transformer, scheduler, transformer), plain, atol=1e-5, rtol=1e-5)
    untouched = copy.deepcopy(transformer)
    with slotid.condition(transformer, identity, strength=0.8):
        conditioned = stock()
        expected = _by_hand(transformer, scheduler, untouched)
    torch.testing.assert_close(conditioned, expected, atol=1e-5, rtol=1e-5)
    assert (conditioned - plain).norm() > 0.01 * plain.norm()
    assert torch.equal(stock(), plain)


def _by_hand(conditional, scheduler, unconditional):
    latents, sigmas = LATENTS[:1].clone(), scheduler.sigmas
    with torch.no_grad():
        for step, time in enumerate(scheduler.timesteps):
            prompt = conditional(latents, time.expand(1), PROMPT[None], return_dict=False)[0]
            negative = unconditional(latents, time.expand(1), NEGATIVE[None], return_dict=False)[0]
            latents = latents + (sigmas[step + 1] - sigmas[step]) * (negative + 2.5 * (prompt - negative))
    return latents


def test_guidance_conditions_only_the_prompt(transformer, slotid, identity):
    """Where prompt and negative are one text, guidance has no effect without an identity, and some with one."""

    def run(cfg):
        return sample(transformer, LATENTS[:1], PROMPT, PROMPT, steps=2, cfg=cfg)

    torch.testing.assert_close(run(4.0), run(1.0), atol=1e-4, rtol=1e-4)
    with slotid.condition(transformer, identity):
        assert (run(4.0) - run(1.0)).norm() > 0.01 * run(1.0).norm()


def test_five_lines_of_the_design(transformer, vae, slotid, identity):
    pipe = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    )
    pipe.set_progress_bar_config(disable=True)
    settings = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 1.0}

    def video():
        return pipe(prompt_embeds=PROMPT[None], generator=torch.Generator().manual_seed(0), **settings).frames

    plain = video()
    with slotid.condition(transformer, identity, strength=0.9):
        conditioned = video()
    assert conditioned.shape == plain.shape == (1, 5, 16, 16, 3)
    assert (conditioned != plain).any() and (video() == plain).all()


def test_generate_carries_the_identity(transformer, vae, slotid, identity):
    settings = {"frames": 5, "size": (16, 16), "steps": 2, "cfg": 2.0}
    plain = generate(transformer, vae, PROMPT, NEGATIVE, **settings)
    with slotid.condition(transformer, identity):
        assert not torch.equal(generate(transformer, vae, PROMPT, NEGATIVE, **settings), plain)
    assert torch.equal(generate(transformer, vae, PROMPT, NEGATIVE, **settings), plain)


def test_outside_the_range_is_bit_identical(transformer, slotid, identity):
    before = {time: forward(transformer, time) for time in (1.0, 0.9, 0.5, 0.2)}
    # shift 1: fractions 0.2 .. 0.6 are the flow times 0.8 .. 0.4
    with condition_transformer(slotid, transformer, identity, start=0.2, end=0.6, shift=1.0):
        changed = {time: not torch.equal(forward(transformer, time), out) for time, out in before.items()}
    assert changed == {1.0: False, 0.9: False, 0.5: True, 0.2: False}


@pytest.mark.parametrize("steps", [5, 20])
def test_a_step_on_a_bound_belongs_to_what_starts_there(transformer, slotid, identity, steps):
    """On a bound rounding alone would decide; UniPC's whole-number timesteps are low by up to 1."""
    times = flow_times(steps, 8.0)
    first, last = steps // 5, 3 * steps // 5
    for time, expected in (
        (times[first - 1], False),
        (times[first], True),
        (times[last - 1], True),
        (times[last], False),
    ):
        for rounded in (time, int(time * 1000) / 1000):
            before = forward(transformer, rounded)
            with condition_transformer(slotid, transformer, identity, start=0.2, end=0.6):
                assert torch.equal(forward(transformer, rounded), before) != expected


def test_rows_at_different_times(transformer, slotid, identity):
    before = forward(transformer, torch.tensor([0.9, 0.5]))
    with condition_transformer(slotid, transformer, identity, start=0.2, end=0.6, shift=1.0):
        after = forward(transformer, torch.tensor([0.9, 0.5]))
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


def test_timesteps_per_token_count_by_the_largest(transformer, slotid, identity):
    """Wan 2.2 5B hands every token its own timestep; a given first frame has 0."""
    per_token = torch.tensor([[0.0] * 4 + [500.0] * 4])
    arguments = (LATENTS[:1], per_token, PROMPT[None])
    with torch.no_grad():
        before = transformer(*arguments, return_dict=False)[0]
        with condition_transformer(slotid, transformer, identity, start=0.4, end=0.6, shift=1.0):
            assert not torch.equal(transformer(*arguments, return_dict=False)[0], before)


def test_flow_range_is_comfyuis_percent_to_sigma():
    def percent_to_sigma(percent, shift):
        """comfy.model_sampling.ModelSamplingDiscreteFlow, with time_snr_shift written out."""
        time = 1.0 - percent
        return shift * time / (1 + (shift - 1) * time)

    assert flow_range(0.0, 1.0, 8.0) == (math.inf, -math.inf)
    for start, end, shift in ((0.1, 0.35, 8.0), (0.25, 0.75, 3.0), (0.2, 0.5, 1.0)):
        assert flow_range(start, end, shift) == pytest.approx(
            (percent_to_sigma(start, shift), percent_to_sigma(end, shift))
        )


def test_half_precision_transformer_gets_a_copy_of_the_conditioning(folder, slotid, identity):
    model = load_wan_transformer(folder / "dit.safetensors", dtype=torch.bfloat16)
    before = forward(model, latents=LATENTS.bfloat16())
    with slotid.condition(model, identity):
        after = forward(model, latents=LATENTS.bfloat16())
    assert after.dtype == torch.bfloat16 and not torch.equal(after, before)
    assert {p.dtype for p in slotid.conditioning.parameters()} == {torch.float32}


def test_gradients_reach_the_conditioning_and_nothing_else(transformer, slotid, identity):
    trained = copy.deepcopy(slotid).requires_grad_(True)
    trained.name, trained.hash = slotid.name, slotid.hash
    with trained.condition(transformer, identity):
        out = transformer(LATENTS, torch.tensor([100.0, 900.0]), PROMPT.expand(2, -1, -1), return_dict=False)[0]
        out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.conditioning.parameters())
    assert all(p.grad is None for p in transformer.parameters())


def test_keys_and_values_are_made_once(transformer, slotid, identity, monkeypatch):
    calls = []
    prepare = type(slotid.conditioning).prepare
    monkeypatch.setattr(
        type(slotid.conditioning), "prepare", lambda self, tokens: calls.append(1) or prepare(self, tokens)
    )
    with slotid.condition(transformer, identity):
        for time in (0.9, 0.5, 0.1):
            forward(transformer, time)
    assert calls == [1]


def test_survives_accelerates_hooks(transformer, slotid, identity):
    """CPU offloading takes `forward` apart and puts it together again after every run of a pipeline."""
    accelerate_hooks = pytest.importorskip("accelerate.hooks")
    with slotid.condition(transformer, identity):
        inside = forward(transformer)
        accelerate_hooks.add_hook_to_module(transformer, accelerate_hooks.ModelHook())
        assert torch.equal(forward(transformer), inside)
        accelerate_hooks.remove_hook_from_module(transformer)
        assert torch.equal(forward(transformer), inside)
        with transformer.cache_context("uncond"):
            assert not torch.equal(forward(transformer), inside)
    vars(transformer).pop("forward", None)
    del transformer._diffusers_hook


def refused(transformer, slotid, identity, **settings):
    with pytest.raises(SlotIDError) as caught, condition_transformer(slotid, transformer, identity, **settings):
        forward(transformer)
    return caught.value


@pytest.mark.parametrize("sizes", [{"width": 256, "depth": 4}, {"depth": 3}])
def test_refuses_another_backbone(tmp_path, slotid, identity, sizes):
    other = load_wan_transformer(write_dit(tmp_path / "other.safetensors", **sizes))
    error = refused(other, slotid, identity)
    assert f"width {sizes.get('width', 128)} with {sizes['depth']} blocks" in error.found
    assert "slotid.safetensors" in error.expected and "width 128, 4 blocks" in error.expected


def test_refuses_other_things(transformer, slotid, identity, tmp_path):
    assert "Linear" in refused(torch.nn.Linear(2, 2), slotid, identity).found
    saved_model(tmp_path / "another.safetensors", CONFIG, seed=9)
    another = SlotID.load(tmp_path / "another.safetensors")
    assert "was made by 'slotid.safetensors'" in refused(transformer, another, identity).found
    assert "start = 0.5, end = 0.5" in refused(transformer, slotid, identity, start=0.5, end=0.5).found
    assert "start = -0.1" in refused(transformer, slotid, identity, start=-0.1).found
    assert "strength = nan" in refused(transformer, slotid, identity, strength=float("nan")).found
    assert "shift = 0" in refused(transformer, slotid, identity, shift=0).found


def test_refuses_compiled_and_caching_transformers(folder, slotid, identity):
    model = load_wan_transformer(folder / "dit.safetensors")
    assert "compiled" in refused(torch.compile(model, backend="eager"), slotid, identity).found
    model.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    assert "FirstBlockCacheConfig" in refused(model, slotid, identity).found
    model.disable_cache()
    model.blocks[2].compile(backend="eager")
    assert "compiled" in refused(model, slotid, identity).found


def test_a_block_that_did_not_run_is_an_error(transformer, slotid, identity):
    block = transformer.blocks[1]
    with pytest.raises(SlotIDError) as caught, slotid.condition(transformer, identity):
        block._forward_hooks.clear()
        forward(transformer)
    assert "1 of 2 blocks" in caught.value.found


def test_shared_seam_keeps_rows_and_tokens():
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    out = apply_residual(
        x, lambda part, rows: torch.ones_like(part), rows=[slice(1, 2)], tokens=slice(2, 4), strength=2
    )
    changed = out != x
    assert changed[1, 2:4].all() and changed.sum() == 8
