"""Decoding by timestamps: the right frames at the right times, upright and in the right colours."""

from __future__ import annotations

import io
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from slotid_core.errors import SlotIDWarning
from slotid_core.video import decoding, load_video, save_video

from .video_files import close, grey, levels, write


@pytest.fixture(scope="module")
def ramp(tmp_path_factory) -> Path:
    """3 s at 24 fps; picture i has level 3 i."""
    return write(tmp_path_factory.mktemp("ramp") / "ramp.mp4", [grey(3 * i) for i in range(72)])


def test_resamples_by_time(ramp):
    clip = load_video(ramp, frames=33, fps=16)
    assert clip.frames.shape == (33, 48, 64, 3)
    assert clip.frames.dtype == torch.float32
    assert clip.timestamps.dtype == torch.float64
    nearest = [min(range(72), key=lambda i, goal=Fraction(k, 16): (abs(Fraction(i, 24) - goal), i)) for k in range(33)]
    assert clip.timestamps.tolist() == pytest.approx([i / 24 for i in nearest], abs=1e-4)
    assert close(levels(clip), [3 * i for i in nearest])
    assert (clip.fps, clip.source) == (Fraction(16), "ramp.mp4")


def test_same_bytes_twice_and_from_a_stream(ramp):
    first, second = load_video(ramp), load_video(io.BytesIO(ramp.read_bytes()))
    assert torch.equal(first.frames, second.frames)
    assert first.sha256 == second.sha256 and len(first.sha256) == 64


@pytest.mark.parametrize(("frames", "duration", "count"), [(33, 1.0, 13), (32, None, 29), (100, None, 45), (5, 2.0, 5)])
def test_length_is_the_largest_4k1_covered(ramp, frames, duration, count):
    assert load_video(ramp, frames=frames, fps=16, duration=duration).frames.shape[0] == count


@pytest.mark.parametrize("start", [0.5, 2.5])
def test_start_trims_with_and_without_seeking(ramp, start):
    clip = load_video(ramp, frames=5, fps=24, start=start)
    first = round(start * 24)
    assert close(levels(clip), [3 * (first + i) for i in range(5)])
    assert clip.timestamps.tolist() == pytest.approx([(first + i) / 24 for i in range(5)], abs=1e-4)


def test_a_seek_that_lands_too_late_is_not_believed(ramp, monkeypatch):
    monkeypatch.setattr(decoding, "_seek", lambda container, stream, time: container.seek(2_900_000) is None)
    assert close(levels(load_video(ramp, frames=5, fps=24, start=2.2)), [3 * (53 + i) for i in range(5)])


def test_time_that_jumps_back_is_left_out(tmp_path):
    parts = []
    for part, level in enumerate((40, 200)):
        path = write(tmp_path / f"{part}.ts", [grey(level)] * 24)
        parts.append(path.read_bytes())
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    clip = load_video(tmp_path / "joined.ts", frames=17, fps=24)
    assert (clip.timestamps.diff() > 0).all()


def test_5994_keeps_exact_time(tmp_path):
    rate = Fraction(60000, 1001)
    path = write(tmp_path / "ntsc.mp4", [grey(i) for i in range(0, 240, 2)], rate=rate)
    clip = load_video(path, frames=117, fps=59.94)
    assert clip.fps == rate
    assert clip.frames.shape[0] == 117
    # A frame repeated or skipped anywhere would break the even steps.
    assert close(levels(clip), list(range(0, 234, 2)))


def test_variable_rate_takes_the_nearest_in_time(tmp_path):
    times = [0, 0.05, 0.1, 0.6, 0.65, 1.2, 1.3, 1.35]
    path = write(tmp_path / "vfr.mp4", [grey(30 * i) for i in range(8)], times=times)
    with pytest.warns(SlotIDWarning, match="repeated"):
        clip = load_video(path, frames=13, fps=10)
    nearest = [min(range(8), key=lambda i, goal=k / 10: (abs(times[i] - goal), i)) for k in range(13)]
    assert close(levels(clip), [30 * i for i in nearest])


def test_slow_source_repeats_frames_and_says_so(tmp_path):
    path = write(tmp_path / "slow.mp4", [grey(20 * i) for i in range(10)], rate=Fraction(8))
    with pytest.warns(SlotIDWarning, match="repeated"):
        assert load_video(path, frames=17, fps=16).frames.shape[0] == 17


def with_matrix(source: Path, target: Path, a: int, b: int, c: int, d: int) -> Path:
    data = bytearray(source.read_bytes())
    matrix = data.find(b"tkhd") + 4 + 4 + 20 + 16
    one = 1 << 16
    assert struct.unpack(">9i", data[matrix : matrix + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
        ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
        ((0, -1, 1, 0), lambda a: np.rot90(a, 1)),
        ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
    ],
)
def test_rotation_metadata_is_applied(tmp_path, matrix, turn):
    picture = grey(20)
    picture[:24, :32] = 200
    picture[24:, :32] = 120
    flat = write(tmp_path / "flat.mp4", [picture] * 24)
    clip = load_video(with_matrix(flat, tmp_path / "turned.mp4", *matrix), frames=5)
    expected = turn(picture)
    assert clip.frames.shape[1:] == expected.shape
    assert np.abs(clip.frames[0].numpy() * 255 - expected).mean() < 4


def test_photo_orientation_is_applied(tmp_path):
    picture = grey(20)
    picture[:24, :32] = 200
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(picture).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    with pytest.warns(SlotIDWarning, match="one frame"):
        clip = load_video(tmp_path / "photo.jpg")
    expected = np.rot90(picture, -1)
    assert clip.frames.shape[1:] == expected.shape
    assert np.abs(clip.frames[0].numpy() * 255 - expected).mean() < 4


def test_odd_sizes(tmp_path):
    pictures = [grey(40 + 20 * i, (51, 37)) for i in range(9)]
    path = write(tmp_path / "odd.mkv", pictures, codec="ffv1", pix_fmt="bgr0", size=(51, 37))
    clip = load_video(path, frames=5, fps=24)
    assert clip.frames.shape == (5, 37, 51, 3)
    assert close(levels(clip), [40 + 20 * i for i in range(5)], 0)


def test_pixel_shape_is_applied(carphone):
    # 176 x 144 with pixels 12 : 11 wide.
    assert load_video(carphone, frames=5).frames.shape[1:3] == (144, 192 + 1)


def test_transparency_lies_on_grey(tmp_path):
    picture = np.zeros((48, 64, 4), dtype=np.uint8)
    picture[:, :32] = (200, 100, 0, 255)
    picture[:, 32:] = (255, 0, 255, 0)
    path = write(tmp_path / "alpha.mov", [picture] * 6, codec="qtrle", pix_fmt="argb")
    clip = load_video(path, frames=5, fps=24)
    assert torch.allclose(clip.frames[:, :, :32] * 255, torch.tensor([200.0, 100.0, 0.0]))
    assert torch.allclose(clip.frames[:, :, 32:] * 255, torch.tensor(128.0))


def test_colours_follow_the_label(tmp_path):
    frames = torch.zeros(5, 64, 64, 3)
    frames[..., 0], frames[..., 1], frames[..., 2] = 0.8, 0.3, 0.1
    save_video(tmp_path / "colour.mp4", frames, 16)
    back = load_video(tmp_path / "colour.mp4", frames=5).frames
    assert (back - frames).abs().max() < 0.02


@pytest.mark.parametrize(("size", "planes"), [((1280, 720), (101, 93, 186)), ((320, 240), (109, 87, 188))])
def test_unlabelled_colours_go_by_size(tmp_path, size, planes):
    path = tmp_path / "unlabelled.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        area = size[0] * size[1]
        data = np.repeat(np.uint8(planes), [area, area // 4, area // 4]).reshape(size[1] * 3 // 2, size[0])
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(data, format="yuv420p")))
        container.mux(stream.encode(None))
    mean = load_video(path, frames=5, fps=24).frames.mean(dim=(0, 1, 2)) * 255
    assert mean.tolist() == pytest.approx([203, 76, 25], abs=4)


def test_8k_is_scaled_while_decoding(tmp_path):
    size = (7680, 4320)
    pictures = (np.full((size[1], size[0], 3), level, dtype=np.uint8) for level in (60, 90, 120, 150, 180))
    path = write(tmp_path / "8k.mp4", pictures, size=size, preset="ultrafast", tune="zerolatency", threads="2")
    tracemalloc.start()
    try:
        clip = load_video(path, frames=5, fps=24, max_side=256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert clip.frames.shape == (5, 144, 256, 3)
    assert close(levels(clip), [60, 90, 120, 150, 180])
    # One 8K frame in RGB alone is 100 MB.
    assert peak < 20e6


def test_progress_counts_and_can_stop(ramp):
    calls = []
    load_video(ramp, frames=9, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (9, 9) and calls == sorted(calls)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_video(ramp, progress=stop)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_photo_gives_one_frame_and_a_warning(tmp_path, suffix):
    Image.fromarray(grey(90)).save(tmp_path / f"photo.{suffix}")
    with pytest.warns(SlotIDWarning, match="one frame"):
        clip = load_video(tmp_path / f"photo.{suffix}")
    assert clip.frames.shape == (1, 48, 64, 3)
    assert close(levels(clip), [90])


def test_cutout_photo_lies_on_grey(tmp_path):
    Image.fromarray(np.dstack([grey(250), np.zeros((48, 64), np.uint8)])).save(tmp_path / "cut.png")
    with pytest.warns(SlotIDWarning):
        assert close(levels(load_video(tmp_path / "cut.png")), [128], 0)


def test_one_frame_video(tmp_path):
    path = write(tmp_path / "one.mp4", [grey(77)])
    with pytest.warns(SlotIDWarning, match="one frame"):
        assert load_video(path).frames.shape[0] == 1
