"""The shipped demo weights carry identity: the loss on held-out people with the right, no and the wrong reference.

`pytest -s` prints the figures that the README quotes.
"""

import pytest
import torch

from slotid_core.demo.clips import reference_clips, target_clips, target_prompt
from slotid_core.demo.files import demo_files
from slotid_core.demo.people import TEST
from slotid_core.demo.prompts import embed_prompt
from slotid_core.demo.store import encode, load_vae
from slotid_core.model import SlotID
from slotid_core.training.flow import conditioned, flow_time, velocity_error

PEOPLE, NOISES = 48, 2


@pytest.mark.skipif("not trained" in SlotID.load(demo_files().slot_id).metadata["trained_on"], reason="seeded weights")
@torch.no_grad()
def test_the_right_reference_explains_a_person_best():
    pytest.importorskip("diffusers")
    from slotid_core.pipelines.wan import load_wan_transformer

    files, seeds = demo_files(), list(TEST[100 : 100 + PEOPLE])
    vae = load_vae(files.vae)
    transformer, model = load_wan_transformer(files.diffusion_model), SlotID.load(files.slot_id)
    targets, references = encode(vae, target_clips(seeds).frames), encode(vae, reference_clips(seeds).frames)
    prompts = [target_prompt(seed, 0) for seed in seeds]
    text = torch.stack([embed_prompt(p.pose, p.expression, p.background) for p in prompts])
    right = model.encoder(references)[0]

    generator = torch.Generator().manual_seed(0)
    losses = {"right": [], "no": [], "wrong": []}
    for _ in range(NOISES):
        time = flow_time(torch.randn(PEOPLE, generator=generator), 3.0)
        noise = torch.randn(targets.shape, generator=generator)

        def loss(time: torch.Tensor = time, noise: torch.Tensor = noise) -> torch.Tensor:
            return velocity_error(transformer, targets, noise, time, text).flatten(1).mean(1)

        losses["no"].append(loss())
        for name, tokens in (("right", right), ("wrong", right.roll(1, 0))):
            with conditioned(model, transformer, tokens):
                losses[name].append(loss())
    mean = {name: torch.stack(values).mean(0) for name, values in losses.items()}
    better = (mean["right"] < mean["wrong"]).float().mean().item()
    print({name: round(values.mean().item(), 4) for name, values in mean.items()}, f"right beats wrong: {better:.0%}")
    assert mean["right"].mean() < mean["no"].mean() < mean["wrong"].mean()
    assert better > 0.75
