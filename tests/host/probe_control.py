"""Runs inside a real ComfyUI and tells, as JSON, what masks, ranges, weights, windows and the guider did.

Not a test itself: `test_control.py` runs it once with the host's own Python and holds each answer.

    python probe_control.py COMFYUI PACK DIT SLOTID OUT
"""

from __future__ import annotations

import json

from inside import (
    DIT,
    OUT,
    SLOTID,
    STEPS,
    Influence,
    Run,
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
    width_windows,
)  # fmt: skip

FRAMES = 7  # latent frames, which windows of 4 cut
SIZE = (FRAMES, 4, 6)
# After the last block nothing mixes the tokens any more: what changes is what was conditioned.
LAST = Influence(first_block=2)
Guider = pack["nodes.guider_node"].IdentityGuider


def halves() -> tuple[torch.Tensor, torch.Tensor]:
    left, right = torch.zeros(1, 32, 48), torch.zeros(1, 32, 48)
    left[:, :, :16], right[:, :, 16:] = 1, 1
    return left, right


def late(latent_frames: int = FRAMES) -> torch.Tensor:
    """A mask for each frame of the video, on from latent frame 5."""
    mask = torch.zeros(4 * (latent_frames - 1) + 1, 8, 8)
    mask[17:] = 1
    return mask


def main() -> dict[str, object]:
    model = comfy.sd.load_diffusion_model(str(DIT))
    slotid = pack["nodes.host_model"].HostModel(SLOTID)
    one, two = identity(slotid, 10), identity(slotid, 11)

    def on(model=model, who=one, influence=LAST, mask=None):
        return apply_identity(model, slotid, who, influence, mask)[0]

    return {
        **masks(model, on, one, two),
        **windows(model, on, slotid),
        **areas(model, on),
        **settings(model, on, slotid),
        **reasons(model, slotid, one),
        **guidance(model, on),
    }


def masks(model, on, one, two) -> dict[str, object]:
    left, right = halves()
    plain, first, second = (Run(m, size=SIZE).cond[0] for m in (model, on(), on(who=two)))
    masked = Run(on(mask=left), size=SIZE).cond[0]
    both = Run(on(on(mask=left), two, mask=right), size=SIZE).cond[0]
    swapped = Run(on(on(mask=right), two, mask=left), size=SIZE).cond[0]
    moving = Run(on(mask=late()), size=SIZE).cond[0]
    pair = [Run(m, size=SIZE, batch=2).cond[0] for m in (on(mask=left), on())]
    odd = (2, 5, 7)
    off, ones = Run(on(), size=odd), Run(on(mask=torch.ones(3, 8, 8)), size=odd)
    return {
        "outside_is_bit_identical": torch.equal(masked[..., 2:], plain[..., 2:]),
        "inside_is_the_identity": close(masked[..., :2], first[..., :2]) and not close(masked, plain),
        "two_people": close(both, torch.cat([first[..., :2], second[..., 2:]], -1)),
        "two_people_swapped": close(swapped, torch.cat([second[..., :2], first[..., 2:]], -1)),
        "identities_differ": not close(first, second),
        "moving_mask": torch.equal(moving[:, :, :5], plain[:, :, :5]) and close(moving[:, :, 5:], first[:, :, 5:]),
        "ones_are_no_mask": same(off, ones),
        "compiled_mask": close(Run(compiled(on(mask=left)), size=SIZE).cond[0], masked),
        "batch_of_two": close(pair[0][..., :2], pair[1][..., :2]) and not close(pair[0][..., 2:], pair[1][..., 2:]),
    }  # fmt: skip


def windows(model, on, slotid) -> dict[str, object]:
    """Windows of 4 latent frames overlapping by 2: the same tokens in each, and the mask of each one's frames."""
    prepared, adapter = [], slotid.conditioning.model
    original = adapter.prepare
    adapter.prepare = lambda tokens: prepared.append(tokens.clone()) or original(tokens)
    patched = on(influence=Influence())
    windowed = Run(context_windows(patched), size=SIZE)
    # The next chunk of a longer video is another run of the same model.
    Run(context_windows(patched), size=SIZE)
    del adapter.prepare
    plain, everywhere = (Run(context_windows(m), size=SIZE).cond[0] for m in (model, on()))
    moving = Run(context_windows(on(mask=late())), size=SIZE).cond[0]
    other_order = Run(on(context_windows(model), mask=late()), size=SIZE).cond[0]
    looped = [Run(context_windows(m, "looped_uniform", True), size=SIZE).cond[0] for m in (model, on(mask=late()))]
    wide = [Run(width_windows(m), size=SIZE) for m in (model, on(), on(mask=halves()[0]))]
    off, whole, half = (run.cond[0] for run in wide)
    late_frames = close(moving[:, :, 5:], everywhere[:, :, 5:])
    return {
        "windows": len(windowed.chunks) // STEPS,
        "prepared": len(prepared),
        "same_tokens": all(torch.equal(tokens, prepared[0]) for tokens in prepared),
        "mask_follows_windows": close(moving[:, :, :5], plain[:, :, :5]) and late_frames,
        "windows_differ": not close(plain[:, :, 5:], everywhere[:, :, 5:]),
        "mask_in_either_order": torch.equal(moving, other_order),
        "mask_follows_columns": close(half[..., 2:], off[..., 2:]) and close(half[..., :2], whole[..., :2]),
        "columns_were_cut": len(wide[0].chunks) == 2 * STEPS and not close(off[..., :2], whole[..., :2]),
        "mask_follows_a_loop": close(looped[0][:, :, :5], looped[1][:, :, :5]) and not close(*looped),
    }  # fmt: skip


def areas(model, on) -> dict[str, object]:
    """A prompt for a part of the picture: latents 2 to 5 of 6 columns, 0 to 3 of 4 rows."""
    regional = [*prompt(2), [prompt(5)[0][0], {"area": (4, 4, 0, 2), "strength": 1.0, "set_area_to_bounds": False}]]
    left, _ = halves()
    off, everywhere, masked = (Run(m, size=SIZE, positive=regional) for m in (model, on(), on(mask=left)))
    return {
        "area_was_met": len({len(chunk) for chunk in off.chunks}) > 1 or len(off.chunks) > STEPS,
        "area_negative_untouched": torch.equal(off.uncond[0], everywhere.uncond[0]),
        "area_carries_the_identity": not close(off.cond[0], everywhere.cond[0]),
        "area_under_a_mask": torch.equal(off.cond[0][..., 2:], masked.cond[0][..., 2:]),
    }


def settings(model, on, slotid) -> dict[str, object]:
    asked, adapter = [], slotid.conditioning.model
    original = adapter.residual
    adapter.residual = lambda index, *args: asked.append(index) or original(index, *args)
    Run(on(influence=Influence(first_block=1, last_block=1)))
    del adapter.residual
    whole = Run(on(influence=Influence()))
    runs = [Run(on(influence=Influence(**how))) for how in ({"appearance": 0.0}, {"dynamics": 0.0}, {"last_block": 0})]
    return {
        "blocks_asked": sorted(set(asked)),
        "weights_of_1_are_as_before": same(whole, Run(on(influence=Influence(appearance=1.0, dynamics=1.0)))),
        "each_setting_differs": len({float(run.latents.sum()) for run in [whole, Run(model), *runs]}),
    }


def reasons(model, slotid, one) -> dict[str, object]:
    def why(influence, mask=None, slotid=slotid, who=one):
        patched, said = apply_identity(model, slotid, who, influence, mask)
        return said if patched is model else f"it acts: {said}"

    weights = [block.out.weight for block in slotid.conditioning.model.blocks.values()]
    kept = [weight.clone() for weight in weights]
    for weight in weights:
        weight.zero_()
    untrained = why(Influence())
    for weight, before in zip(weights, kept, strict=True):
        weight.copy_(before)
    return {
        "why_strength": why(Influence(strength=0.0)),
        "why_halves": why(Influence(appearance=0.0, dynamics=0.0)),
        "why_mask": why(Influence(), torch.zeros(2, 8, 8)),
        "why_blocks": why(Influence(first_block=50)),
        "why_untrained": untrained,
        "why_not": why(Influence()),
        "cut_video": refusal(
            lambda: cut_video(apply_identity(model, slotid, one, Influence(), torch.ones(1, 8, 8))[0])
        ),
    }


def cut_video(model) -> None:
    """Another pack that shows the model a part of the latents, and does not say which."""
    model = model.clone()
    model.set_model_unet_function_wrapper(
        lambda apply, args: apply(args["input"][..., :2], args["timestep"], **args["c"]).repeat(1, 1, 1, 1, 2)
    )
    Run(model)


def guidance(model, on) -> dict[str, object]:
    def guider(scale):
        return lambda model, positive, negative, cfg: Guider(model, positive, negative, cfg, scale)

    def stock(model, positive, negative, cfg):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return guider

    def rows(run):
        """Answers of the model in each step."""
        counts = [len(chunk) for chunk in run.chunks]
        return [sum(counts[i::STEPS]) for i in range(STEPS)] if len(counts) == STEPS else sum(counts) / STEPS

    patched = on(influence=Influence())
    plain = {length: Run(patched, guide=stock, negative_length=length) for length in (4, 7)}
    more, without, cfg = Run(patched, guide=guider(2.0)), Run(model, guide=stock), 3.0
    formula = without.uncond[0] + cfg * (without.cond[0] - without.uncond[0])
    formula = formula + cfg * 2.0 * (plain[4].cond[0] - without.cond[0])
    made = more.uncond[0] + cfg * (more.cond[0] - more.uncond[0])
    late = on(influence=Influence(start=0.5))
    return {
        "at_1": [same(plain[n], Run(patched, guide=guider(1.0), negative_length=n)) for n in (4, 7)],
        "at_1_rows": rows(Run(patched, guide=guider(1.0))),
        "at_1_like_ksampler": same(Run(patched), Run(patched, guide=guider(1.0))),
        "at_0": same(without, Run(patched, guide=guider(0.0))),
        "at_0_rows": rows(Run(patched, guide=guider(0.0))),
        "at_2_rows": rows(more),
        "at_2_rows_apart": rows(Run(patched, guide=guider(2.0), negative_length=7)),
        "at_2_is_the_formula": torch.allclose(made, formula, atol=1e-3),
        "at_2_differs": not same(more, plain[4]),
        "cfg_1_rows": [rows(Run(patched, guide=guider(scale), cfg=1.0)) for scale in (2.0, 1.0, 0.0)],
        "range_rows": rows(Run(late, guide=guider(2.0))),
        "no_identity": same(without, Run(model, guide=guider(2.0))),
        "no_identity_rows": rows(Run(model, guide=guider(2.0))),
        "with_windows": rows(Run(context_windows(patched), guide=guider(2.0), size=SIZE)),
        "beside_another_pack": beside_another_pack(patched, guider(2.0), more),
    }


def beside_another_pack(patched, guide, more) -> list[bool]:
    """A pack that takes over the host's two answers, and does nothing else with them; one that rescales guidance."""
    calculated = patched.clone()
    calculated.set_model_sampler_calc_cond_batch_function(
        lambda args: comfy.samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
        )
    )
    rescaled = patched.clone()
    rescaled.set_model_sampler_cfg_function(lambda args: args["uncond"] + 1.5 * (args["cond"] - args["uncond"]))
    lower = Run(patched, guide=guide, cfg=1.5)
    runs = [(Run(calculated, guide=guide), more), (Run(rescaled, guide=guide), lower)]
    return [torch.allclose(made.latents, wanted.latents, atol=1e-3) for made, wanted in runs]


def close(one, other) -> bool:
    return torch.allclose(one, other, atol=1e-4, rtol=1e-4)


with torch.inference_mode():
    OUT.write_text(json.dumps(main(), indent=1))
