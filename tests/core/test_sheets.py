"""Sheets that artists look at: the right pictures in the right places, marked and named."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from slotid_core import sheets
from slotid_core.detectors import Box
from slotid_core.errors import SlotIDError
from slotid_core.faces import prepare_faces
from slotid_core.routing_sheet import routing_sheet
from slotid_core.sheets import contact_sheet, frames_sheet, rows_sheet, save_image
from slotid_core.slots import RoutingTrace
from slotid_core.video import Clip, as_bytes

from .models import tiny_faces


class Scripted:
    name = "scripted"

    def __init__(self, missing=()):
        self.missing = missing

    def detect(self, frame, index=0):
        return [] if index in self.missing else [Box(30, 20, 60, 50)]


def faces_of(count=9, missing=(), shape=(80, 120)):
    levels = torch.linspace(0.3, 0.9, count)[:, None, None, None]
    frames = levels.expand(count, *shape, 3).contiguous()
    times = torch.arange(count, dtype=torch.float64) / 16
    clip = Clip(frames, times, Fraction(16), "made.mp4", "0" * 64)
    return prepare_faces(clip, detector=Scripted(missing), size=32)


@pytest.fixture
def words(monkeypatch) -> list[str]:
    """Every text that is drawn."""
    drawn, draw = [], ImageDraw.ImageDraw.text

    def record(self, place, text, **options):
        drawn.append(text)
        draw(self, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return drawn


def count(picture: np.ndarray, colour) -> int:
    return int((picture == np.array(colour, np.uint8)).all(axis=-1).sum())


def check(picture: np.ndarray) -> None:
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    border = [picture[: sheets.GAP], picture[-sheets.GAP :], picture[:, : sheets.GAP], picture[:, -sheets.GAP :]]
    assert all((edge == sheets.BACKGROUND).all() for edge in border)


def test_contact_sheet_shows_every_frame_and_crop(words):
    faces = faces_of()
    sheet = contact_sheet(faces, columns=3)
    check(sheet)
    # Crop and frame of the same level, once each for every frame.
    for frame in faces.clip.frames:
        assert count(sheet, as_bytes(frame)[0, 0]) > sheets.FRAME_HEIGHT**2 * 2
    assert words[:9] == [f"{i}   {i / 16:.2f} s" for i in range(9)]
    assert "made.mp4" in words and "Face found in 9 of 9 frames (scripted)." in words


def test_contact_sheet_draws_the_crop_box():
    faces = faces_of(1)
    sheet = contact_sheet(faces)
    rows, columns = np.nonzero((sheet == sheets.FOUND).all(axis=-1))
    scale = sheets.FRAME_HEIGHT / 80
    side = (faces.boxes[0, 2] - faces.boxes[0, 0]).item() * scale
    assert np.ptp(columns) == pytest.approx(side, abs=2)
    assert columns.min() - sheets.GAP == pytest.approx(faces.boxes[0, 0].item() * scale, abs=2)
    assert np.ptp(rows) == pytest.approx(side, abs=2)


def test_interpolated_frames_are_marked(words):
    sheet = contact_sheet(faces_of(missing=(2, 3)))
    assert words.count("interpolated") == 2
    assert count(sheet, sheets.INTERPOLATED) > 1000
    assert count(contact_sheet(faces_of()), sheets.INTERPOLATED) == 0


def test_title_is_shown(words):
    contact_sheet(faces_of(1), title="untrained demo weights")
    assert any("untrained demo weights" in text for text in words)
    frames_sheet(torch.rand(5, 16, 16, 3), title="untrained demo weights")
    assert words.count("untrained demo weights") == 1


def test_frames_sheet_lays_out_in_rows(words):
    frames = torch.rand(5, 64, 64, 4)
    sheet = frames_sheet(frames, 3)
    check(sheet)
    cell = sheets.FRAME_HEIGHT + sheets.GAP
    assert sheet.shape[1] == 3 * cell + sheets.GAP
    assert words == ["0", "1", "2", "3", "4"]
    frames_sheet(frames, captions=list("abcde"))
    assert words[5:] == list("abcde")


@pytest.mark.parametrize(
    ("count", "size"), [(5, (64, 64)), (17, (480, 832)), (33, (832, 480)), (1, (8, 400)), (81, (64, 64))]
)
def test_sheets_stay_of_a_size_to_look_at(count, size):
    sheet = frames_sheet(torch.rand(1, *size, 3).expand(count, -1, -1, -1))
    check(sheet)
    assert max(sheet.shape) < 3000


def test_long_lines_wrap_inside_the_page():
    title = "a remark that goes on " * 20
    sheet = frames_sheet(torch.rand(1, 16, 16, 3), title=title)
    check(sheet)
    assert sheet.shape[1] < 420


def test_rows_compare_videos(words):
    rows = [("strength 0", torch.zeros(17, 32, 32, 3)), ("strength 1", torch.ones(5, 32, 48, 3))]
    sheet = rows_sheet(rows, columns=5, title="strength")
    check(sheet)
    assert words == ["strength 0", "strength 1", "strength"]
    assert count(sheet, [0, 0, 0]) == 5 * sheets.FRAME_HEIGHT**2
    assert count(sheet, [255, 255, 255]) >= 5 * sheets.FRAME_HEIGHT * sheets.FRAME_HEIGHT * 1.5


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_save_image(tmp_path, suffix):
    sheet = frames_sheet(torch.rand(5, 16, 16, 3))
    save_image(tmp_path / f"sheet.{suffix}", sheet)
    with Image.open(tmp_path / f"sheet.{suffix}") as picture:
        back = np.asarray(picture.convert("RGB"))
    assert np.abs(back.astype(int) - sheet).mean() < (0.01 if suffix == "png" else 8)
    assert [path.name for path in tmp_path.iterdir()] == [f"sheet.{suffix}"]


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("sheet.gif", np.zeros((4, 4, 3), np.uint8)),
        ("sheet", np.zeros((4, 4, 3), np.uint8)),
        ("missing/sheet.png", np.zeros((4, 4, 3), np.uint8)),
        ("sheet.png", np.zeros((4, 4, 3), np.float32)),
        ("sheet.png", np.zeros((4, 4), np.uint8)),
        ("sheet.png", np.zeros((4, 4, 4), np.uint8)),
        ("sheet.png", None),
    ],
)
def test_bad_pictures(tmp_path, name, picture):
    with pytest.raises(SlotIDError):
        save_image(tmp_path / name, picture)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: frames_sheet(torch.zeros(0, 8, 8, 3)),
        lambda: frames_sheet(torch.zeros(5, 8, 8, 1)),
        lambda: frames_sheet(torch.full((5, 8, 8, 3), float("nan"))),
        lambda: frames_sheet(torch.zeros(5, 8, 8, 3), 0),
        lambda: frames_sheet(torch.zeros(5, 8, 8, 3), 2.5),
        lambda: frames_sheet(torch.zeros(5, 8, 8, 3), captions=["one"]),
        lambda: contact_sheet(faces_of(1), columns=-1),
        lambda: rows_sheet([]),
        lambda: rows_sheet([("a", torch.zeros(0, 8, 8, 3))]),
        lambda: rows_sheet([("a", torch.zeros(1, 8, 8, 3))], columns=0),
    ],
)
def test_bad_input(call):
    with pytest.raises(SlotIDError):
        call()


def test_routing_sheet_is_drawn_from_the_plan():
    faces = tiny_faces(9)
    plan = torch.zeros(1, 3, 5, 4)
    plan[:, :, 0, :2] = 0.25  # the first slot takes the upper half, the dustbin the lower
    plan[:, :, -1, 2:] = 0.25
    picture = routing_sheet(faces, RoutingTrace(plan, torch.full((1, 3), 0.5), (2, 2)), title="words")
    other = RoutingTrace(plan.flip(-1), torch.full((1, 3), 0.5), (2, 2))
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3
    assert (picture != routing_sheet(faces, other, title="words")).mean() > 0.05
