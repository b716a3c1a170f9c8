"""Sheets that artists look at: the right pictures in the right places, marked and named."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from slotid_core.detectors import Box
from slotid_core.errors import SlotIDError
from slotid_core.faces import prepare_faces
from slotid_core.routing_sheet import (
    SIDE,
    routing_overlay,
    routing_report,
    routing_sheet,
    slot_pictures,
    usage,
    usage_plot,
)
from slotid_core.sheets import Line, contact_sheet, coverage_map, frames_sheet, pages, plot, rows_sheet, save_image
from slotid_core.slots import RoutingTrace
from slotid_core.video import Clip, as_bytes

from .models import tiny_faces


class Scripted:
    name = "scripted"

    def __init__(self, missing=()):
        self.missing = missing

    def detect(self, frame, index=0):
        return [] if index in self.missing else [Box(30, 20, 74, 64)]


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
    border = [picture[: pages.GAP], picture[-pages.GAP :], picture[:, : pages.GAP], picture[:, -pages.GAP :]]
    assert all((edge == pages.BACKGROUND).all() for edge in border)


def test_contact_sheet_shows_every_frame_and_crop(words):
    faces = faces_of()
    sheet = contact_sheet(faces, columns=3)
    check(sheet)
    # Crop and frame of the same level, once each for every frame.
    for frame in faces.clip.frames:
        near = np.abs(sheet.astype(int) - as_bytes(frame)[0, 0]).max(axis=-1) <= 1
        assert near.sum() > pages.FRAME_HEIGHT**2 * 2
    assert words[:9] == [f"{i}   {i / 16:.2f} s" for i in range(9)]
    assert "made.mp4" in words and "Face found in 9 of 9 frames (scripted)." in words


def test_contact_sheet_draws_the_crop_box():
    faces = faces_of(1)
    sheet = contact_sheet(faces)
    rows, columns = np.nonzero((sheet == pages.FOUND).all(axis=-1))
    scale = pages.FRAME_HEIGHT / 80
    side = (faces.boxes[0, 2] - faces.boxes[0, 0]).item() * scale
    assert np.ptp(columns) == pytest.approx(side, abs=2)
    assert columns.min() - pages.GAP == pytest.approx(faces.boxes[0, 0].item() * scale, abs=2)
    assert np.ptp(rows) == pytest.approx(side, abs=2)


def test_frames_kept_in_spite_of_a_flaw_are_marked_with_it(words):
    sheet = contact_sheet(faces_of(missing=(2, 3)))
    assert words.count("occluded") == 2
    assert count(sheet, pages.FLAWED) > 1000
    assert count(contact_sheet(faces_of()), pages.FLAWED) == 0


def test_frames_left_out_are_dark_and_say_why(words):
    faces = faces_of(17, missing=range(9, 17))
    sheet = contact_sheet(faces)
    assert words.count("left out: occluded") == 8
    assert count(sheet, pages.LEFT_OUT) > 1000
    # The frame itself at a third of its light, and no crop beside it.
    level = as_bytes(faces.checkup.clip.frames[16])[0, 0] // 3
    assert count(sheet, level) > pages.FRAME_HEIGHT**2


def test_coverage_map_has_a_dot_for_each_pose_and_a_bar_for_each_expression(words):
    seen = {
        "poses": [[-30.0, 0.0], None, [30.0, 10.0]],
        "expression_source": "blendshapes",
        "expressions": {"smile": 0.5},
    }
    picture = coverage_map(seen)
    dots = (picture[:, :220] == np.array(pages.FOUND)).all(axis=-1)
    assert dots[:, :110].any() and dots[:, 110:].any()
    assert np.argwhere(dots[:, 110:])[:, 0].mean() < np.argwhere(dots[:, :110])[:, 0].mean(), "up is up"
    bar = (picture[:, 232:] == np.array(pages.FOUND)).all(axis=-1).any(axis=0)
    assert bar[:110].all() and not bar[120:].any()
    assert "smile" in words and "expressions, by blendshapes" in words
    coverage_map({})
    assert "poses are not known: no landmarks" in words


def test_plot_draws_each_curve_where_its_values_are(words):
    picture = plot("title", [Line("a", [0, 0, float("nan"), 1], (250, 0, 0)), Line("b", [1] * 4, (0, 0, 250))], high=1)
    red = np.argwhere((picture[32:] == np.array([250, 0, 0])).all(axis=-1))
    blue = np.argwhere((picture[32:] == np.array([0, 0, 250])).all(axis=-1))
    assert np.ptp(blue[:, 0]) < 6 and np.ptp(blue[:, 1]) > 600
    low, high = red[red[:, 1] < 400], red[red[:, 1] > 400]
    assert low[:, 0].min() > 200 and high[:, 0].max() < 20, "0 at the bottom, 1 at the top, nothing between"
    assert {"title", "a", "b"} <= set(words)


def test_title_is_shown(words):
    contact_sheet(faces_of(1), title="untrained demo weights")
    assert any("untrained demo weights" in text for text in words)
    frames_sheet(torch.rand(5, 16, 16, 3), title="untrained demo weights")
    assert words.count("untrained demo weights") == 1


def test_frames_sheet_lays_out_in_rows(words):
    frames = torch.rand(5, 64, 64, 4)
    sheet = frames_sheet(frames, 3)
    check(sheet)
    cell = pages.FRAME_HEIGHT + pages.GAP
    assert sheet.shape[1] == 3 * cell + pages.GAP
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
    assert count(sheet, [0, 0, 0]) == 5 * pages.FRAME_HEIGHT**2
    assert count(sheet, [255, 255, 255]) >= 5 * pages.FRAME_HEIGHT * pages.FRAME_HEIGHT * 1.5


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
        lambda: plot("none", []),
        lambda: plot("uneven", [Line("a", [1], (0, 0, 0)), Line("b", [1, 2], (0, 0, 0))]),
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
    error, evidence = torch.full((1, 3), 0.5), torch.zeros(1, 4)
    picture = routing_sheet(faces, RoutingTrace(plan, error, (2, 2), evidence), title="words")
    other = RoutingTrace(plan.flip(-1), error, (2, 2), evidence)
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3
    assert (picture != routing_sheet(faces, other, title="words")).mean() > 0.05


@pytest.fixture
def plan():
    """Three latent frames of 2 x 2 tokens: slot 1 has the upper left, slot 2 the upper right, the dustbin the rest."""
    plan = torch.zeros(1, 3, 4, 4)
    plan[:, :, 0, 0] = plan[:, :, 1, 1] = 0.3
    plan[:, :, -1, 2:] = 0.2
    return RoutingTrace(plan, torch.tensor([[0.1, 0.2, 0.6]]), (2, 2), torch.zeros(1, 3))


def test_usage_is_the_plans_own_mass(plan):
    figures = usage(plan)
    assert torch.allclose(figures.slots, torch.tensor([[0.3, 0.3, 0.0]] * 3))
    assert torch.allclose(figures.dustbin, torch.full((3,), 0.4))
    report = routing_report(plan)
    assert "Dustbin: 40% of the mass" in report and "Marginal error: 0.30 on average, 0.60 at most" in report
    assert "Hardly used: slots 3." in report


def test_the_overlay_colours_each_place_by_its_slot_and_darkens_the_dustbin(plan):
    faces = tiny_faces(9)
    overlay = routing_overlay(faces, plan)
    assert overlay.shape == (3, SIDE, SIDE, 3) and overlay.min() >= 0 and overlay.max() <= 1
    half = SIDE // 2
    corners = [overlay[1, y : y + half, x : x + half].mean((0, 1)) for y in (0, half) for x in (0, half)]
    assert corners[0].argmax() == 0, "the first slot's colour is red"
    assert corners[1][1] > corners[1][0], "the second slot's is not"
    assert max(corners[2].max(), corners[3].max()) < 0.6 * corners[0].max()


def test_slot_pictures_light_up_where_a_slot_looked(plan):
    pictures = slot_pictures(tiny_faces(9), plan)
    assert pictures.shape == (3, 2 * SIDE, 2 * SIDE, 3)
    first = pictures[0, :SIDE, :SIDE].mean(-1)
    assert first[20:50, 20:50].mean() > 1.5 * first[80:, 80:].mean()
    dustbin = pictures[0, SIDE:, SIDE:].mean(-1)
    assert dustbin[80:, 20:110].mean() > 1.5 * dustbin[20:40, 20:110].mean()


def test_usage_plot_names_every_slot(plan, words):
    picture = usage_plot(plan)
    assert picture.dtype == np.uint8 and {"slot 1", "slot 2", "slot 3", "marginal error"} <= set(words)


def test_previews_show_the_plan_of_the_reader():
    """The plan that the encoder itself used, whatever the faces are: every place sums to its token's weight."""
    from .models import fake_vae, tiny_model

    model, faces = tiny_model(), tiny_faces(9)
    model.hash = "ab" * 32
    _, trace = model.encode_with_routing(faces, fake_vae)
    figures = usage(trace)
    assert figures.slots.shape == (3, 4)
    assert torch.allclose(figures.slots.sum(-1) + figures.dustbin, torch.ones(3), atol=1e-5)
    assert torch.allclose(figures.slots[1], trace.plan[0, 1, :-1].sum(-1), atol=1e-5)
    assert slot_pictures(faces, trace).shape[0] == routing_overlay(faces, trace).shape[0] == 3
