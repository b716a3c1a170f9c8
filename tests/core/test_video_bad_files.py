"""Every kind of file and argument that gives no clip, and what is said about it."""

from __future__ import annotations

import io
import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from slotid_core.video import load_video

from .video_files import SIZE, grey, refusal, write


@pytest.fixture(scope="module")
def ramp(tmp_path_factory) -> Path:
    """3 s at 24 fps; picture i has level 3 i."""
    return write(tmp_path_factory.mktemp("ramp") / "ramp.mp4", [grey(3 * i) for i in range(72)])


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
