"""Runs inside a real ComfyUI and tells, as JSON, what the identity patch did to the sampled latents.

Not a test itself: `test_patch.py` runs it once with the host's own Python and holds each answer.

    python probe.py COMFYUI PACK DIT SLOTID OUT
"""

from __future__ import annotations

import copy
import dataclasses
import json

from inside import (
    DIT,
    OUT,
    SLOTID,
    STEPS,
    Influence,
    Run,
    WrappersMP,
    apply_identity,
    comfy,
    compiled,
    context_windows,
    identity,
    pack,
    prompt,
    refusal,
    same,
    torch,
)  # fmt: skip


def dual_guidance(model) -> dict[str, torch.Tensor]:
    """What the model makes of the three prompts of DualCFGGuider, which counts its negative prompt as number 0."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    made = {}
    model = model.clone()

    def note(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        kinds = next(a for a in args if isinstance(a, dict))["cond_or_uncond"]
        for kind, part in zip(kinds, out.chunk(len(kinds)), strict=True):
            made[("negative", "middle", "positive")[kind]] = part.clone()
        return out

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", note)
    guider = Guider_DualCFG(model)
    guider.set_conds(prompt(2), prompt(4), prompt(3))
    guider.set_cfg(3.0, 2.0)
    noise = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 1)
    guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, seed=0)
    return made


def main() -> dict[str, object]:
    answers: dict[str, object] = {}
    model = comfy.sd.load_diffusion_model(str(DIT))
    slotid = pack["nodes.host_model"].HostModel(SLOTID)
    one, two = identity(slotid, 10), identity(slotid, 11)

    def on(model=model, who=one, strength=1.0, start=0.0, end=1.0):
        return apply_identity(model, slotid, who, Influence(strength, start, end))[0]

    plain = Run(model)
    answers["deterministic"] = same(plain, Run(model))
    answers["strength_0_is_the_model"] = on(strength=0.0) is model
    conditioned = Run(on())
    answers["changes_when_on"] = not same(plain, conditioned)
    answers["identities_differ"] = not same(conditioned, Run(on(who=two)))
    answers["strengths_differ"] = not same(conditioned, Run(on(strength=0.5)))
    answers["repeats"] = same(conditioned, Run(on()))
    answers["gone_after_a_run"] = same(plain, Run(model))
    answers["nothing_left_on_model"] = not model.model_options["transformer_options"].get("patches_replace")

    late, early = Run(on(start=0.5)), Run(on(end=0.5))
    answers["late_start"] = late.same_steps(plain)
    answers["early_end_differs"] = not same(plain, early)
    answers["halves_make_a_whole"] = same(conditioned, Run(on(on(start=0.5), end=0.5)))
    answers["range_without_a_step"] = same(plain, Run(on(start=0.999)))

    for name, length in (("batched", 4), ("apart", 7)):
        off, conditioned = Run(model, negative_length=length), Run(on(), negative_length=length)
        answers[f"{name}_chunks"] = off.chunks[: len(off.chunks) // STEPS]
        # In the first step the noise is the same, so the model's answers compare.
        answers[f"{name}_calls"] = len(conditioned.chunks)
        answers[f"{name}_uncond_same"] = torch.equal(off.uncond[0], conditioned.uncond[0])
        answers[f"{name}_cond_differs"] = not torch.equal(off.cond[0], conditioned.cond[0])
    off, conditioned = dual_guidance(model), dual_guidance(on())
    answers["dual_guidance_same"] = [name for name in sorted(off) if torch.equal(off[name], conditioned[name])]
    answers["cfg_1_changes"] = not same(Run(model, cfg=1.0), Run(on(), cfg=1.0))

    pair, off = Run(on(), batch=2), Run(model, batch=2)
    answers["batch_2_strength_0"] = same(off, Run(on(strength=0.0), batch=2))
    answers["batch_2_uncond_same"] = torch.equal(off.uncond[0], pair.uncond[0])
    answers["batch_2_every_row_differs"] = [not torch.equal(off.cond[0][i], pair.cond[0][i]) for i in range(2)]

    answers["odd_size_changes"] = not same(Run(model, size=(2, 5, 7)), Run(on(), size=(2, 5, 7)))

    answers["two_identities_differ_from_one"] = not same(Run(on(on(), two)), Run(on()))
    answers["second_at_strength_0"] = same(Run(on()), Run(on(on(), two, strength=0.0)))

    calls = []

    def others_patch(args, extra):
        calls.append(1)
        return {"img": extra["original_block"](args)["img"] * 0.9}

    other = model.clone()
    other.set_model_patch_replace(others_patch, "dit", "double_block", 1)
    after = Run(on(other))
    answers["calls_another_packs_block"] = len(calls)
    answers["another_packs_block_counts"] = not same(after, Run(on()))
    before = on()
    before.set_model_patch_replace(others_patch, "dit", "double_block", 1)
    answers["another_pack_after_us"] = same(after, Run(before))
    answers["callers_options_untouched"] = other.model_options["transformer_options"]["patches_replace"]["dit"] == {
        ("double_block", 1): others_patch
    }

    # A shift set after Apply must move the identity's range with it.
    def shifted(model, shift=2.0):
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        return ModelSamplingSD3().patch(model, shift, multiplier=1000)[0]

    answers["shift_in_either_order"] = same(Run(shifted(on(start=0.5))), Run(on(shifted(model), start=0.5)))
    answers["shift_moves_the_range"] = Run(shifted(on(start=0.5))).same_steps(Run(shifted(model)))

    for name, change in (("easycache", easycache), ("context_windows", context_windows), ("compiled", compiled)):
        off, conditioned, before = (Run(m, size=(7, 4, 4)) for m in (change(model), change(on()), on(change(model))))
        answers[f"{name}_either_order"] = torch.allclose(conditioned.latents, before.latents, atol=1e-4)
        difference = (conditioned.cond[0] - off.cond[0]).abs().amax((0, 1, 3, 4))
        answers[f"{name}_every_frame_differs"] = bool((difference > 1e-3).all()) and len(difference) == 7
        answers[f"{name}_calls"] = len(conditioned.chunks)
        answers[f"{name}_uncond_same"] = torch.equal(off.uncond[0], conditioned.uncond[0])

    prepared = []
    adapter = slotid.conditioning.model
    original = adapter.prepare
    adapter.prepare = lambda tokens: prepared.append(1) or original(tokens)
    patched = on()
    Run(patched)
    answers["prepared_per_run"] = len(prepared)
    del adapter.prepare
    patch = patched.get_wrappers(WrappersMP.DIFFUSION_MODEL, "slotid")[0]
    answers["nothing_kept_after_run"] = patch.prepared == {}
    answers["deepcopy_shares_weights"] = copy.deepcopy({"wrapper": [patch]})["wrapper"][0] is patch
    answers["adapter_is_managed"] = any(m.model is adapter for m in patched.get_additional_models_with_key("slotid"))

    answers["wrong_width"] = refusal(lambda: apply_identity(narrow(), slotid, one, Influence()))
    answers["not_wan"] = refusal(lambda: apply_identity(not_wan(), slotid, one, Influence()))
    answers["empty_range"] = refusal(lambda: on(start=0.6, end=0.4))
    stranger = copy.copy(one)
    object.__setattr__(stranger, "model_hash", "0" * 64)
    answers["other_models_identity"] = refusal(lambda: on(who=stranger))
    answers["reference_prefix"] = reference_prefix()
    # Wan 2.2's image-to-video experts see 36 channels; its 5B model has a latent space of 48.
    answers["wan22_i2v"] = other_member(slotid, channels_in=36, channels=16)
    answers["wan22_5b"] = other_member(slotid, channels_in=48, channels=48)
    return answers


def easycache(model):
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]


def other_member(slotid, channels_in: int, channels: int) -> list[bool]:
    """Another of the family, random: strength 0 is the model, on changes the positive half alone, after it is gone."""
    import comfy.ops

    torch.manual_seed(0)
    sizes = {"dim": 256, "ffn_dim": 128, "num_heads": 2, "num_layers": 3, "in_dim": channels_in, "out_dim": channels}
    wan = comfy.ldm.wan.model.WanModel(**sizes, operations=comfy.ops.disable_weight_init, dtype=torch.float32)
    state = {key: 0.05 * torch.randn_like(t) for key, t in wan.state_dict().items()}
    model = comfy.sd.load_diffusion_model_state_dict(state)
    config = slotid.model.config
    config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, latent_channels=channels))
    fitting = pack["slotid_core.model"].SlotID(config)
    for block in fitting.conditioning.blocks.values():
        torch.nn.init.normal_(block.out.weight)
    path = OUT.with_name(f"slotid{channels}.safetensors")
    fitting.save(path, trained_on="nothing (tests)", license="Apache-2.0")
    fitting = pack["nodes.host_model"].HostModel(path)
    who = identity(fitting, 10)
    plain, on = Run(model), Run(apply_identity(model, fitting, who, Influence())[0])
    off, _ = apply_identity(model, fitting, who, Influence(strength=0.0))
    return [off is model, not same(plain, on), torch.equal(plain.uncond[0], on.uncond[0]), same(plain, Run(model))]


def narrow():
    """A Wan model of another width."""
    import comfy.ops

    wan = comfy.ldm.wan.model.WanModel(
        dim=128, ffn_dim=128, num_heads=1, num_layers=2, operations=comfy.ops.disable_weight_init, dtype=torch.float32
    )
    return comfy.sd.load_diffusion_model_state_dict({key: torch.zeros_like(t) for key, t in wan.state_dict().items()})


def not_wan():
    """The smallest thing the patch looks at before it refuses."""
    model = torch.nn.Module()
    model.diffusion_model = torch.nn.Linear(1, 1)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def reference_prefix() -> list[int]:
    """Where the video's tokens lie behind a 6x10 latent reference image, in a 2x5x7 latent video."""
    import comfy.ops

    wan = comfy.ldm.wan.model.WanModel(
        dim=128, ffn_dim=8, num_heads=1, num_layers=1, in_dim_ref_conv=16, operations=comfy.ops.disable_weight_init
    )
    tokens = pack["nodes.wan_patch"].video_tokens(wan, torch.zeros(1, 16, 2, 5, 7), torch.zeros(1, 16, 6, 10))
    return [tokens.start, tokens.stop]


with torch.inference_mode():
    OUT.write_text(json.dumps(main(), indent=1))
