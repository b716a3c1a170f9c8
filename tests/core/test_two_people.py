"""The measurement of two people in one video: windows, masks and the judge on cases with known answers.

The figures themselves: `python -m slotid_core.evaluation.two_people`.
"""

import pytest
import torch

from slotid_core.demo.clips import target_clips
from slotid_core.demo.files import demo_files
from slotid_core.demo.store import load_vae
from slotid_core.evaluation.probe import load_probe
from slotid_core.evaluation.sampling import Guidance, sample
from slotid_core.evaluation.two_people import half_masks, halves, measure_pairs, nearer, sample_wide
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


def test_the_judge_knows_real_people_from_each_other():
    """Real renders put side by side are read right, and the other way round when they change places."""
    frames = target_clips(PEOPLE, 100).frames
    frames = frames if frames.dtype == torch.uint8 else (frames * 255).round().to(torch.uint8)
    probe = load_probe()
    for i in range(0, len(PEOPLE), 2):
        seeds = (PEOPLE[i], PEOPLE[i + 1])
        # The windows share 16 columns, of which each head leaves its half free.
        frame = torch.cat([frames[i : i + 1, :, :, :56], frames[i + 1 : i + 2, :, :, 8:]], 3)
        swapped = torch.cat([frames[i + 1 : i + 2, :, :, :56], frames[i : i + 1, :, :, 8:]], 3)
        assert [int(nearer(probe.read(half), seeds)) for half in halves(frame)] == [0, 1]
        assert [int(nearer(probe.read(half), seeds)) for half in halves(swapped)] == [1, 0]


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


def test_it_measures(demo):
    """Two steps show nothing but that every arrangement is another video, and that the counts are right."""
    shares, videos = measure_pairs(*demo, load_probe(), Guidance(steps=2), first=PEOPLE[0], pairs=1)
    assert shares.halves == 2 and videos.shape == (1, 2, 17, 64, 112, 3)
    assert all(0 <= getattr(shares, name) <= 1 for name in ("right", "swapped", "unmasked", "alone"))
    assert (videos[:, 0].float() - videos[:, 1].float()).abs().mean() > 0.5
    assert "right identity in its half" in str(shares)
