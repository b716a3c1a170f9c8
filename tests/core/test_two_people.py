"""The measurement of two people in one video: windows, masks and the judge on cases with known answers.

The figures themselves: `python -m slotid_core.evaluation.two_people`.
"""

import pytest
import torch

from slotid_core.demo.clips import target_clips
from slotid_core.demo.files import demo_files
from slotid_core.demo.people import people
from slotid_core.demo.store import load_vae
from slotid_core.evaluation.measures import LOOKS
from slotid_core.evaluation.probe import Reading, load_probe
from slotid_core.evaluation.sampling import Guidance, sample
from slotid_core.evaluation.two_people import Judge, half_masks, halves, measure_pairs, sample_wide
from slotid_core.model import SlotID

pytest.importorskip("diffusers")
PEOPLE = list(range(1_000_300, 1_000_308))
ONE_STEP = Guidance(steps=1)


@pytest.fixture(scope="module")
def demo():
    from slotid_core.pipelines.wan import load_wan_transformer

    files = demo_files()
    return SlotID.load(files.slot_id), load_wan_transformer(files.diffusion_model), load_vae(files.vae)


def test_the_masks_share_the_frame():
    left, right = half_masks()
    assert torch.equal(left + right, torch.ones(1, 64, 112)) and left.mean() == 0.5


@pytest.fixture(scope="module")
def judge():
    """Fitted on real renders, of which the probe reads nearly all looks."""
    seeds = list(range(1_000_400, 1_000_440))
    return Judge.fit(load_probe().read(target_clips(seeds, 100).frames), seeds)


def test_the_judge_knows_real_people_from_each_other(judge):
    """Real renders put side by side are told right, and the other way round when they change places."""
    frames, probe = target_clips(PEOPLE, 100).frames, load_probe()
    for i in range(0, len(PEOPLE), 2):
        seeds, (one, other) = (PEOPLE[i], PEOPLE[i + 1]), frames[i : i + 2].unsqueeze(1)
        for pair, expected in (((one, other), [0, 1]), ((other, one), [1, 0])):
            # The windows share 16 columns, of which each head leaves its half free.
            frame = torch.cat([pair[0][:, :, :, :56], pair[1][:, :, :, 8:]], 3)
            assert [int(judge.likelier(probe.read(half), seeds)) for half in halves(frame)] == expected


def test_the_judge_does_not_count_what_is_not_carried():
    """Readings that follow hair alone: everything else is as likely for one as for the other."""
    seeds = list(range(1_000_400, 1_000_480))
    truth, generator = people(seeds).values, torch.Generator().manual_seed(0)
    made = {name: truth[name][torch.randperm(len(seeds), generator=generator)] for name in LOOKS}
    made |= {name: truth[name] for name in ("hair_hue", "hair_value", "hair_saturation")}
    reading = Reading(made, {}, {}, torch.zeros(len(seeds)), torch.zeros(len(seeds), 1))
    judge = Judge.fit(reading, seeds)
    right = []
    for i in range(0, len(seeds), 2):
        own = Reading({name: value[i : i + 2] for name, value in made.items()}, {}, {}, torch.zeros(2), torch.zeros(2))
        right.append(judge.likelier(own, (seeds[i], seeds[i + 1])).tolist() == [0, 1])
    assert sum(right) >= 0.95 * len(right)


def test_windows_are_pictures_of_their_own_that_share_their_border(demo):
    """One step: outside the two columns of latents that windows share, each is what it would be alone."""
    model, transformer, _ = demo
    noise = torch.randn(1, 16, 5, 8, 14, generator=torch.Generator().manual_seed(1))
    text = torch.randn(1, 4, 4096, generator=torch.Generator().manual_seed(2))
    wide = sample_wide(transformer, model, [], noise, text, ONE_STEP)
    left, right = (sample(transformer, part.contiguous(), text, ONE_STEP) for part in (noise[..., :8], noise[..., 6:]))
    torch.testing.assert_close(wide[..., :6], left[..., :6])
    torch.testing.assert_close(wide[..., 8:], right[..., 2:])
    torch.testing.assert_close(wide[..., 6:8], (left[..., 6:] + right[..., :2]) / 2)


def test_it_measures(demo, judge):
    """Two steps show nothing but that every arrangement is another video, and that the counts are right."""
    shares, videos = measure_pairs(*demo, load_probe(), judge, Guidance(steps=2), first=PEOPLE[0], pairs=1)
    assert shares.halves == 2 and videos.shape == (1, 2, 17, 64, 112, 3)
    assert all(0 <= getattr(shares, name) <= 1 for name in ("right", "swapped", "unmasked", "alone"))
    assert (videos[:, 0].float() - videos[:, 1].float()).abs().mean() > 0.5
    assert "right identity in its half" in str(shares)
