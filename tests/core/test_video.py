"""Decoding by timestamps, and every kind of file that is no clip."""

from __future__ import annotations

import io
import struct
import tracemalloc
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slotid_core.errors import SlotIDError, SlotIDWarning
from slotid_core.video import as_fps, clip_from_frames, decoding, load_video, save_video

av = pytest.importorskip("av")

SIZE = (64, 48)


def grey(level: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((size[1], size[0], 3), level, dtype=np.uint8)


def write(path, pictures, times=None, rate=Fraction(24), codec="libx264", pix_fmt="yuv420p", size=SIZE, **options):
    """A video whose i-th picture is shown at times[i] (seconds), or at i / rate."""
    options = {"g": "12"} | options
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, 90000)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[-1] == 4 else "rgb24")
            time = i / rate if times is None else Fraction(times[i])
            frame.pts, frame.time_base = round(time * 90000), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def levels(clip) -> list[int]:
    return (clip.frames.mean(dim=(1, 2, 3)) * 255).round().int().tolist()


def close(found: list[int], expected: list[int], tolerance: int = 2) -> bool:
    return len(found) == len(expected) and all(abs(a - b) <= tolerance for a, b in zip(found, expected, strict=True))


def refusal(call) -> SlotIDError:
    with pytest.raises(SlotIDError) as caught:
        call()
    assert caught.value.found and caught.value.expected and caught.value.remedy
    return caught.value


@pytest.fixture(scope="module")
def ramp(tmp_path_factory) -> Path:
    """3 s at 24 fps; picture i has level 3 i."""
    return write(tmp_path_factory.mktemp("ramp") / "ramp.mp4", [grey(3 * i) for i in range(72)])


# --- what comes out ---------------------------------------------------------------------------------------------


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


# --- photos and very short clips --------------------------------------------------------------------------------


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


# --- files that are no clip -------------------------------------------------------------------------------------


def test_no_file(tmp_path):
    assert "missing.mp4" in refusal(lambda: load_video(tmp_path / "missing.mp4")).found


@pytest.mark.parametrize("path", ["bad\0name.mp4", "/"])
def test_no_such_path(path):
    refusal(lambda: load_video(path))


@pytest.mark.parametrize(
    "content",
    [
        b"hello world\n" * 200,
        bytes(range(256)) * 40,
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\0\0\0\x18ftypmp42" + bytes(2000),
        b"%PDF-1.7\n" + b"x" * 5000,
        b"PK\x03\x04" + bytes(500),
    ],
)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.txt", "clip.png"])
def test_not_a_video(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    assert name in refusal(lambda: load_video(tmp_path / name)).found


def test_empty_file(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert "0 bytes" in refusal(lambda: load_video(tmp_path / "empty.mp4")).found


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile ramp.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nramp.mp4\n#EXT-X-ENDLIST\n",
    ],
)
def test_playlists_open_nothing_else(ramp, content, monkeypatch):
    monkeypatch.chdir(ramp.parent)
    playlist = ramp.parent / "list.mp4"
    playlist.write_text(content)
    refusal(lambda: load_video(playlist))


def test_audio_only(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    assert "audio" in refusal(lambda: load_video(tmp_path / "sound.wav")).found


def test_cover_art_is_no_video(tmp_path):
    sound, cover = io.BytesIO(), io.BytesIO()
    with av.open(sound, "w", format="mp3", options={"id3v2_version": "0"}) as container:
        stream = container.add_stream("mp3", rate=44100)
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    Image.fromarray(grey(90)).save(cover, "jpeg")
    body = b"\0image/jpeg\0\3\0" + cover.getvalue()
    tag = b"APIC" + struct.pack(">IH", len(body), 0) + body
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "song.mp3").write_bytes(b"ID3\3\0\0" + size + tag + sound.getvalue())
    with av.open(str(tmp_path / "song.mp3")) as container:
        assert len(container.streams.video) == 1
    assert "audio" in refusal(lambda: load_video(tmp_path / "song.mp3")).found


def test_zero_frames(tmp_path):
    with av.open(str(tmp_path / "none.mp4"), "w", options={"movflags": "empty_moov+frag_keyframe"}) as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()
    assert "no frames" in refusal(lambda: load_video(tmp_path / "none.mp4")).found


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Path:
    """The first part of a 2 s file of noise, whose index (at the front) speaks of 48 frames."""
    folder = tmp_path_factory.mktemp("cut")
    noise = np.random.default_rng(0)
    whole = write(folder / "whole.mp4", [noise.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(48)])
    data = whole.read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    return folder / "cut.mp4"


def test_truncated_names_what_could_be_read_and_how_to_use_it(cut):
    error = refusal(lambda: load_video(cut, frames=33, fps=16))
    readable = int(error.found.split("damaged: ")[1].split()[0])
    with av.open(str(cut.parent / "whole.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert readable == sum(packet.pos + packet.size <= cut.stat().st_size for packet in packets)
    assert "of 2.00 s" in error.found
    usable = float(error.remedy.split("duration to ")[1].split()[0])
    assert usable == pytest.approx(readable / 24, abs=0.05)
    clip = load_video(cut, frames=33, fps=16, duration=usable)
    assert clip.frames.shape[0] == 13
    assert torch.equal(clip.frames, load_video(cut.parent / "whole.mp4", frames=13, fps=16).frames)


def test_truncated_after_the_part_asked_for_works(cut):
    assert load_video(cut, frames=5, fps=16).frames.shape[0] == 5


def test_truncated_without_index(tmp_path, ramp):
    with av.open(str(tmp_path / "late.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for _ in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(9), format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / "late.mp4").read_bytes()
    (tmp_path / "late.mp4").write_bytes(data[: data.rfind(b"moov")])
    assert "cut off" in refusal(lambda: load_video(tmp_path / "late.mp4")).found


def test_start_beyond_the_end(ramp):
    for start in (3.2, 100.0):
        error = refusal(lambda start=start: load_video(ramp, start=start))
        assert "3.000 s" in error.found and f"{start:g}" in error.found


@pytest.mark.parametrize(
    "bad",
    [
        {"start": -1},
        {"start": float("nan")},
        {"start": "1"},
        {"start": True},
        {"duration": 0},
        {"duration": -2.0},
        {"duration": float("inf")},
        {"frames": 0},
        {"frames": -3},
        {"frames": 5.0},
        {"frames": True},
        {"fps": 0},
        {"fps": -16},
        {"fps": float("nan")},
        {"fps": 1000},
        {"fps": "16"},
        {"max_side": 0},
        {"max_side": 10**6},
        {"max_side": 64.5},
    ],
)
def test_bad_arguments(ramp, bad):
    assert next(iter(bad)) in refusal(lambda: load_video(ramp, **bad)).found


def test_memory_is_bounded(ramp, monkeypatch):
    monkeypatch.setattr("slotid_core.video.load.MAX_CLIP_BYTES", 48 * 64 * 3 * 4 * 32)
    assert load_video(ramp, frames=29).frames.shape[0] == 29
    assert "max_side" in refusal(lambda: load_video(ramp, frames=33)).remedy


# --- frames in memory -------------------------------------------------------------------------------------------


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


# --- writing ----------------------------------------------------------------------------------------------------


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
