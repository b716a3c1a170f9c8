"""Looking up the face on the head, and the probe of latents that reads it there."""

import math

import pytest
import torch

from slotid_core.demo.clips import REFERENCE_FRAMES
from slotid_core.demo.geometry import cast, ellipsoid, rotation
from slotid_core.demo.people import STATIC
from slotid_core.demo.renderer import HEAD_CENTRE, HEAD_HEIGHT, ZOOM
from slotid_core.evaluation.latent_probe import FACE, POSE, LatentProbe, _frames, _groups
from slotid_core.evaluation.targets import TRACK_SCALES

# A head of the mean width.
RADII = (HEAD_HEIGHT * sum(STATIC["aspect"]) / 2, HEAD_HEIGHT, 0.92 * HEAD_HEIGHT)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (40, 5, -4), (-70, -6, 4)])
def test_points_are_looked_up_where_a_ray_meets_them(degrees):
    pose = torch.tensor([[*map(math.radians, degrees), 0.03, -0.02]])
    line = (torch.arange(64) + 0.5) * 2 / 64 - 1
    # Pictures of their own coordinates say where was looked.
    places = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64)])[None]
    across, down = FACE.looked_up(places, pose).unbind(1)
    # Interpolation is exact inside the picture.
    inside = (across.abs() < 0.95) & (down.abs() < 0.95)
    x, y = across / ZOOM - pose[0, 3], -down / ZOOM - HEAD_CENTRE - pose[0, 4]
    hit = ellipsoid(cast(x, y, rotation(*pose[:, :3].unbind(-1)), 0.01), RADII)
    facing, up = FACE.facing(pose), torch.linspace(FACE.highest, FACE.lowest, FACE.rows)[None, :, None]
    met = (hit.point[1] - up).abs() < 2e-3
    assert met[inside & (facing > 0.1)].all()
    if degrees[0]:
        # What is turned away lies behind the head: the ray meets another point first.
        behind = inside & (facing < -0.1)
        assert behind.any() and not met[behind].any()
    normal = sum(n * d for n, d in zip(hit.normal, rotation(*pose[:, :3].unbind(-1))[0, 2], strict=True))
    clear = inside & (facing > 0.1)
    assert torch.allclose(normal[clear], facing[clear], atol=1e-4)


def test_the_persons_left_is_on_the_right():
    facing = FACE.facing(torch.tensor([[math.radians(60), 0, 0, 0, 0]]))[0]
    # A head turned to the viewer's right shows the right half of its face.
    assert (facing[:, 0] > facing[:, -1] + 0.3).all() and facing[12, 0] > 0.95 and facing[12, -1] < 0.1


def test_a_latent_frame_stands_for_four_frames_and_the_first_for_one():
    tracks = torch.randn(2, REFERENCE_FRAMES, 3)
    groups = _groups(tracks)
    assert groups.shape == (2, 9, 4, 3)
    assert torch.equal(groups[:, 0], tracks[:, :1].expand(-1, 4, -1)) and torch.equal(groups[:, 1], tracks[:, 1:5])
    assert torch.equal(_frames(groups.flatten(2)), tracks)


def test_what_the_face_shows_corrects_its_moves_and_not_where_the_head_is():
    torch.manual_seed(0)
    net = LatentProbe().eval()
    latents = torch.randn(3, 16, 9, 8, 8)
    numeric, hues, kinds, tracks, first = net(latents)
    assert numeric.shape == (3, 24) and hues.shape == (3, 4, 2) and kinds.shape == (3, 2, 3)
    assert tracks.shape == first.shape == (3, REFERENCE_FRAMES, len(TRACK_SCALES))
    assert torch.equal(tracks[..., :POSE], first[..., :POSE])
    assert (tracks[..., POSE:] - first[..., POSE:]).abs().amin((0, 1)).max() > 0
    (tracks - first)[..., POSE:].sum().backward()
    # Where to look is not learned from what is seen there.
    assert net.tracks[0].weight.grad.abs().max() < 1e-4 < net.face.maps.weight.grad.abs().max()
