"""What the judges are built from: blinks and lopsided smiles measured, softness made up, the embedding's loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slotid_core.demo.clips import target_clips
from slotid_core.demo.people import TEST, TRAIN, people
from slotid_core.demo.prompts import POSES, Prompt
from slotid_core.demo.renderer import PER_FRAME
from slotid_core.demo.seeds import stream
from slotid_core.evaluation.accuracy import equal_error_rate
from slotid_core.evaluation.blinks import blink_rates, blink_track
from slotid_core.evaluation.build_embedding import SCALE, arcface, folded
from slotid_core.evaluation.metrics import plain, r_squared
from slotid_core.evaluation.mouth import MouthNet, mouth_patches
from slotid_core.evaluation.networks import FRAMES, EmbeddingNet
from slotid_core.evaluation.probe import load_probe
from slotid_core.evaluation.renders import per_frame, to_network
from slotid_core.evaluation.softness import Codec, drifting, grouped

BLINK = PER_FRAME.index("blink")


def smiling(seeds, pose):
    clips = target_clips(seeds, 0, prompts=[Prompt(pose, "smile", "light")] * len(seeds))
    return clips, to_network(clips.frames), per_frame(clips.tracks)


def test_the_blinks_assumed_are_the_blinks_rendered():
    clips, _, tracks = smiling(TEST[:6], "front")
    phases = torch.linspace(0, 1, 2001)
    for rate, blinks in zip(clips.people["blink_rate"], tracks[..., BLINK], strict=True):
        assert (blink_track(rate.expand(2001), phases, FRAMES) - blinks).abs().amax(1).min() < 0.02


def test_two_blinks_tell_the_rate_and_one_only_bounds_it():
    rates = torch.tensor([1.2, 1.5, 1.9])
    twice = blink_track(rates, torch.tensor([0.9, 0.8, 0.9]), FRAMES)
    assert torch.allclose(blink_rates(twice), rates, atol=0.05)
    # However faint the picture shows them.
    assert torch.allclose(blink_rates(0.5 * twice), rates, atol=0.12)
    assert blink_rates(torch.zeros(1, FRAMES))[0] < 0.7
    # One blink half way: any rate r that puts the next one outside, 0.5 .. 1 / (0.5 + 0.11), as likely as r is high.
    once, highest = blink_track(torch.tensor([0.5]), torch.tensor([0.75]), FRAMES), 1 / 0.6125
    mean = 2 / 3 * (highest**3 - 0.5**3) / (highest**2 - 0.5**2)
    assert abs(blink_rates(once)[0] - mean) < 0.08


def test_a_clip_of_a_second_cannot_tell_every_rate():
    generator = torch.Generator().manual_seed(0)
    rates, phases = 0.5 + 1.5 * torch.rand(600, generator=generator), torch.rand(600, generator=generator)
    found = plain(r_squared, rates.numpy(), blink_rates(blink_track(rates, phases, FRAMES)).numpy())
    assert 0.83 < found < 0.9


def test_the_mouth_lies_flat_in_every_pose():
    front, *sides = (smiling(TEST[:4], pose) for pose in ("front", "left", "right"))

    def flat(clip):
        _, frames, tracks = clip
        patches = mouth_patches(frames[:, -1], tracks[:, -1, :5]).mean(1)[:, 2:18, 6:26]
        return (patches - patches.mean((1, 2), keepdim=True)).flatten(1)

    for side in sides:
        alike = F.cosine_similarity(flat(side)[:, None], flat(front)[None], dim=-1)
        assert alike.diagonal().min() > 0.6
        off = alike[~torch.eye(4, dtype=torch.bool)]
        assert alike.diagonal().mean() > off.mean() + 0.1


def test_a_mirrored_mouth_is_lopsided_the_other_way():
    _, frames, tracks = smiling(TEST[:2], "left")
    torch.manual_seed(0)
    net = MouthNet()
    signs = torch.ones(tracks.shape[-1])
    signs[[PER_FRAME.index(name) for name in ("yaw", "roll", "x")]] = -1
    there, back = net(frames, tracks), net(frames.flip(-1), tracks * signs)
    assert torch.allclose(there, -back, atol=1e-4) and there.abs().max() > 1e-3
    # Without a smile nothing can be seen of it.
    tracks[..., PER_FRAME.index("smile")] = 0.0
    assert torch.equal(net(frames, tracks), torch.zeros(2))


@pytest.mark.parametrize("pose", POSES)
def test_the_probe_reads_how_lopsided_a_smile_is(pose):
    seeds = TEST[3100:3118]
    clips, _, _ = smiling(seeds, pose)
    truth, made = people(seeds)["smile_asymmetry"], load_probe().read(clips.frames).numbers["smile_asymmetry"]
    assert plain(r_squared, truth.numpy(), made.numpy()) > 0.7


def test_a_codec_of_few_numbers_is_softer_and_keeps_what_does_not_move():
    clips = to_network(target_clips(TRAIN[:12], 0).frames)
    codec = Codec(grouped(clips))
    assert codec.axes.shape == (4 * 3 * 8 * 8, 64)
    soft = codec.clips(clips, stream("test", 0))
    assert soft.shape == clips.shape
    error = (soft - clips).square().mean((1, 2, 3, 4)) / 4
    assert 22 < -10 * error.log10().mean() < 34 and error.max() > 1.5 * error.min()
    # A picture of one colour is nothing but the mean of its cells.
    plain_red = torch.tensor([0.5, -0.4, -0.4])[:, None, None].expand(1, 17, 3, 64, 64)
    assert (codec.clips(plain_red, stream("test", 1)) - plain_red).abs().mean() < 0.05
    assert torch.equal(soft, codec.clips(clips, stream("test", 0)))


def test_a_still_drifts_as_a_whole():
    stills = torch.arange(64.0 * 64).view(1, 1, 64, 64).expand(5, 3, 64, 64)
    moved = drifting(stills, stream("test", 2))
    assert moved.shape == (5, 4, 3, 64, 64) and torch.equal(moved[:, 1], stills)
    steps = moved[:, :, 0, 32, 32] - stills[:, :1, 32, 32].expand(5, 4)
    rows, columns = (steps / 64).round(), steps - 64 * (steps / 64).round()
    assert rows.abs().sum() > 0 and columns.abs().max() <= 8
    assert torch.equal(moved[0, 3, 0, 20:40, 20:40], stills[0, 0, 20:40, 20:40] + steps[0, 3])


def test_the_loss_of_frames_is_the_loss_to_the_centres_of_the_others():
    vectors = F.normalize(torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    total = 0.0
    for person in range(3):
        for frame in range(4):
            own = torch.cat([vectors[person, :frame], vectors[person, frame + 1 :]])
            centres = [own if other == person else vectors[other] for other in range(3)]
            angles = torch.stack([vectors[person, frame] @ F.normalize(c.sum(0), dim=0) for c in centres]).acos()
            angles[person] += 0.2
            total += F.cross_entropy(SCALE * angles.cos()[None], torch.tensor([person]))
    assert torch.allclose(arcface(vectors, 0.2), total / 12, atol=1e-5)
    together = F.normalize(torch.eye(3)[:, None].expand(3, 4, 3) + 0.01, dim=-1)
    assert arcface(together, 0.2) < 0.01 < arcface(vectors, 0.0) < arcface(vectors, 0.2)


def test_normalising_over_the_batch_is_folded_into_the_weights():
    torch.manual_seed(0)
    net = EmbeddingNet()
    features = torch.randn(50, net.out.in_features) * torch.rand(net.out.in_features) + 3
    before = net.project(F.batch_norm(features, None, None, training=True))
    assert torch.allclose(folded(net, features).project(features), before, atol=1e-4)


def test_equal_error_rate():
    assert equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2, 0.3])) == 0
    assert equal_error_rate(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == 1
    mixed = np.arange(1000) / 1000
    assert abs(equal_error_rate(mixed + 0.5, mixed) - 0.25) < 0.01
