"""Clips from frames in memory, and frames written as mp4."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from slotid_core.errors import SlotIDWarning
from slotid_core.video import as_fps, clip_from_frames, load_video, save_video

from .video_files import refusal


def test_clip_from_frames_slices_alpha_and_length():
    batch = torch.rand(11, 7, 5, 4)
    clip = clip_from_frames(batch, 59.94)
    assert torch.equal(clip.frames, batch[:9, ..., :3])
    assert clip.fps == Fraction(60000, 1001)
    assert clip.timestamps.tolist() == pytest.approx([i * 1001 / 60000 for i in range(9)])


def test_clip_from_frames_hash_depends_on_pixels_alone():
    batch = torch.rand(5, 8, 8, 3)
    same = clip_from_frames(batch.clone(), 16, source="another name")
    assert clip_from_frames(batch, 16).sha256 == same.sha256
    assert clip_from_frames(1 - batch, 16).sha256 != same.sha256
    assert clip_from_frames(batch.reshape(5, 4, 16, 3), 16).sha256 != same.sha256


def test_clip_from_frames_copies_nothing_back():
    batch = torch.full((5, 4, 4, 3), 1.2)
    assert clip_from_frames(batch, 16).frames.max() == 1.0
    assert batch.max() > 1.1


def test_one_frame_warns():
    with pytest.warns(SlotIDWarning, match="one frame"):
        assert clip_from_frames(torch.rand(3, 8, 8, 3), 16).frames.shape[0] == 1


@pytest.mark.parametrize(
    ("frames", "word"),
    [
        (torch.zeros(0, 8, 8, 3), "empty"),
        (torch.zeros(5, 0, 8, 3), "empty"),
        (torch.zeros(5, 8, 8, 2), "2 channels"),
        (torch.zeros(5, 8, 8), "[5, 8, 8]"),
        (torch.zeros(5, 8, 8, 3, dtype=torch.uint8), "uint8"),
        (torch.full((5, 8, 8, 3), 255.0), "255"),
        (torch.full((5, 8, 8, 3), -1.0), "-1"),
        (np.zeros((5, 8, 8, 3), np.float32), "ndarray"),
        (None, "NoneType"),
    ],
)
def test_bad_frames(frames, word, tmp_path):
    assert word in refusal(lambda: clip_from_frames(frames, 16)).found
    assert word in refusal(lambda: save_video(tmp_path / "out.mp4", frames, 16)).found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_frames_are_named(value):
    frames = torch.rand(5, 8, 8, 3)
    frames[3, 2, 1, 0] = value
    error = refusal(lambda: clip_from_frames(frames, 16))
    assert "1 of 5" in error.found and "3" in error.found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (16, Fraction(16)),
        (59.94, Fraction(60000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (12.5, Fraction(25, 2)),
        (30.0, Fraction(30)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
        (30000 / 1001, Fraction(30000, 1001)),
    ],
)
def test_as_fps(value, expected):
    assert as_fps(value) == expected


def smooth(count: int, height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([torch.stack([x, y, torch.full_like(x, i / count)], dim=-1) for i in range(count)])


@pytest.mark.parametrize("size", [(64, 64), (37, 51)])
def test_save_and_load(tmp_path, size):
    frames = smooth(17, *size)
    save_video(tmp_path / "out.mp4", frames, 59.94)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(60000, 1001)
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    back = load_video(tmp_path / "out.mp4", frames=17, fps=59.94).frames
    assert back.shape == (17, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert (back[:, : size[0], : size[1]] - frames).abs().mean() < 0.01
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_same_frames_same_bytes(tmp_path):
    found = set()
    for i in range(12):
        # Heap left dirty in different ways is what once showed in the file.
        dirt = [np.full(1000 * (i + 1), 37 * i % 256, dtype=np.uint8) for _ in range(8)]
        del dirt
        save_video(tmp_path / "out.mp4", smooth(9, 96, 96), 16)
        found.add((tmp_path / "out.mp4").read_bytes())
    assert len(found) == 1


def test_failed_writing_leaves_the_old_file(tmp_path, monkeypatch):
    save_video(tmp_path / "out.mp4", smooth(5, 64, 64), 16)
    before = (tmp_path / "out.mp4").read_bytes()

    def fail(path, data, rate):
        path.write_bytes(b"half")
        raise RuntimeError("encoder")

    monkeypatch.setattr("slotid_core.video.save._encode", fail)
    with pytest.raises(RuntimeError, match="encoder"):
        save_video(tmp_path / "out.mp4", smooth(9, 64, 64), 16)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == before


@pytest.mark.parametrize("name", ["out.avi", "out", "missing/out.mp4"])
def test_bad_output_names(tmp_path, name):
    refusal(lambda: save_video(tmp_path / name, smooth(5, 16, 16), 16))
    assert list(tmp_path.iterdir()) == []
