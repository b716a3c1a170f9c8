"""Frames of a video file, one after the other, with exact times: the part of `video` that speaks to FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from ..errors import SlotIDError

# Transparent pixels hide arbitrary colours; neutral grey under them suggests nothing to the encoder.
ALPHA_BACKGROUND = 127.5
# Shorter starts are reached sooner by decoding than by seeking.
SEEK_FROM = Fraction(2)
# Declared lengths are rounded, and a last frame may be dropped; a file cut off loses more than this many seconds.
TRUNCATION_TOLERANCE = Fraction(1, 2)
EXPECTED = "a video or photo that FFmpeg can read (mp4, mov, webm, mkv, gif, jpg, png, ...)"
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


class Decoded:
    """One decoded frame and its time; pixels are made only for frames that are taken."""

    def __init__(self, time: Fraction, frame: Any, max_side: int, pixel_shape: Fraction) -> None:
        self.time = time
        self._frame, self._max_side, self._pixel_shape = frame, max_side, pixel_shape
        self._picture: np.ndarray | None = None

    def picture(self) -> tuple[Fraction, np.ndarray]:
        """(time, uint8 [H, W, 3]): turned upright, square pixels, no side above `max_side`."""
        if self._picture is None:
            self._picture = _to_rgb(self._frame, self._max_side, self._pixel_shape)
        return self.time, self._picture


class Decoder:
    """Iterate over the frames of the first video stream, in order of time.

    Args:
        file: seekable binary stream.
        name: of the file, for messages.
        begin: seconds from the start of the file from which frames are needed (earlier ones may be left out).
        max_side: longest side of the pictures made.

    Attributes after the iteration:
        count: frames decoded.
        end: seconds at which the last frame ends.
        transfer: "PQ" or "HLG" for HDR video, else None.

    Raises:
        SlotIDError: when the file holds no video.
    """

    def __init__(self, file: BinaryIO, name: str, begin: Fraction, max_side: int) -> None:
        self.name, self.count, self.end = name, 0, Fraction(0)
        self.transfer: str | None = None
        self._file, self._begin, self._max_side = file, begin, max_side
        self._failure: Exception | None = None
        self._declared: Fraction | None = None

    def __iter__(self) -> Iterator[Decoded]:
        if self._begin >= SEEK_FROM:
            found = self._frames(seek=True)
            first = next(found, None)
            # Without a usable index a seek lands anywhere; then the file is read from its start.
            if first is not None and self._failure is None and first.time <= self._begin:
                yield first
                yield from found
                return
        yield from self._frames(seek=False)

    def check_complete(self, begin: Fraction) -> None:
        """Raise when the file ended before its declared length or broke while decoding, or holds no frame."""
        missing = self._declared is not None and self._declared - self.end > TRUNCATION_TOLERANCE
        if self.count == 0 and self._failure is None and not missing:
            raise SlotIDError(f"{self.name} holds no frames", EXPECTED, "Export the video again.")
        if self._failure is None and not missing:
            return
        readable = f"{self.count} frame{'' if self.count == 1 else 's'} could be read, up to {float(self.end):.2f} s"
        declared = "" if self._declared is None else f" of {float(self._declared):.2f} s"
        remedy = "Copy or export the file again."
        usable = int((self.end - begin) * 100) / 100
        if self.count and usable > 0:
            remedy += f" To use the readable part, set duration to {usable:g} or less."
        raise SlotIDError(
            f"{self.name} is cut off or damaged: {readable}{declared}", "frames up to the part asked for", remedy
        ) from self._failure

    def _frames(self, *, seek: bool) -> Iterator[Decoded]:
        self.count, self.end, self._failure = 0, Fraction(0), None
        with _open_container(self._file, self.name) as container:
            stream = _video_stream(container, self.name)
            self._declared = _declared_length(stream)
            self.transfer = HDR_TRANSFERS.get(int(stream.codec_context.color_trc or 0))
            step = 1 / _rate(stream)
            pixel_shape = _fraction(stream.sample_aspect_ratio) or Fraction(1)
            origin = None if stream.start_time is None else stream.start_time * stream.time_base
            if seek and (origin is None or not _seek(container, stream, origin + self._begin)):
                return
            last = None
            for frame in self._decode(container, stream):
                if frame.pts is None:
                    # Raw streams carry no times; after a seek nothing says where we are.
                    if seek:
                        return
                    time = self.count * step
                else:
                    time = frame.pts * Fraction(frame.time_base)
                    origin = time if origin is None else origin
                    time -= origin
                if last is not None and time <= last:
                    continue
                step = step if last is None else time - last
                last, self.end = time, time + step
                self.count += 1
                yield Decoded(time, frame, self._max_side, pixel_shape)

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        """Frames up to the end or the first damage; the damage is kept for `check_complete`."""
        import av

        context = stream.codec_context
        # More threads hold more frames in flight, which at 8K is what fills the memory.
        context.thread_type, context.thread_count = "AUTO", 4
        try:
            for packet in container.demux(stream):
                # The packet at which a file is cut off: fed to the decoder, it would take whole frames down with it.
                if packet.is_corrupt:
                    self._failure = ValueError("incomplete packet")
                    continue
                if packet.size:
                    self._failure = None
                yield from (frame for frame in packet.decode() if not frame.is_corrupt)
        except (av.FFmpegError, ValueError, OSError) as error:
            self._failure = error


class _Nameless:
    """A stream without its name: FFmpeg then judges by content alone, and never takes a text file for a video."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _open_container(file: BinaryIO, name: str) -> Any:
    import av

    file.seek(0)
    try:
        # Playlists (HLS, concat) would open other files or addresses by themselves; "none" forbids every protocol.
        return av.open(_Nameless(file), options={"protocol_whitelist": "none"})
    except (av.FFmpegError, ValueError, OSError) as error:
        raise SlotIDError(
            f"{name} is not a video, or its start or end is cut off",
            EXPECTED,
            "Play the file in a video player; if it plays, convert it to mp4 (H.264); if not, copy it again.",
        ) from error


def _video_stream(container: Any, name: str) -> Any:
    from av.stream import Disposition

    # Cover art in music files is a video stream of one picture.
    streams = [s for s in container.streams.video if not Disposition.attached_pic & Disposition(s.disposition)]
    if streams:
        return streams[0]
    kinds = sorted({stream.type for stream in container.streams}) or ["no streams"]
    raise SlotIDError(f"{name} has no pictures, only: {', '.join(kinds)}", EXPECTED, "Choose a file with video.")


def _declared_length(stream: Any) -> Fraction | None:
    if stream.duration is not None:
        return stream.duration * stream.time_base
    # Matroska and WebM keep a stream's length as a tag, "00:00:02.000000000".
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds


def _rate(stream: Any) -> Fraction:
    return _fraction(stream.average_rate) or _fraction(stream.guessed_rate) or Fraction(25)


def _fraction(value: Any) -> Fraction | None:
    return Fraction(value) if value else None


def _seek(container: Any, stream: Any, time: Fraction) -> bool:
    import av

    try:
        container.seek(int(time / stream.time_base), stream=stream, backward=True)
    except (av.FFmpegError, ValueError, OSError):
        return False
    return True


def _to_rgb(frame: Any, max_side: int, pixel_shape: Fraction) -> np.ndarray:
    width, height = frame.width * pixel_shape, Fraction(frame.height)
    scale = min(Fraction(1), Fraction(max_side) / max(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    has_alpha = frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)
    # Unlabelled video is BT.601 up to standard definition and BT.709 above it, as players read it.
    unlabelled = frame.colorspace == 2 and frame.height >= 720
    converted = frame.reformat(
        width,
        height,
        format="rgba" if has_alpha else "rgb24",
        src_colorspace="ITU709" if unlabelled else None,
        # Without meaning for RGB, but PyAV 14 ignores the source's colours unless the two differ.
        dst_colorspace="ITU601",
        interpolation="AREA" if scale < 1 else "BICUBIC",
    ).to_ndarray()
    if has_alpha:
        alpha = converted[..., 3:].astype(np.float32) / 255.0
        blended = converted[..., :3] * alpha + ALPHA_BACKGROUND * (1.0 - alpha)
        converted = (blended + 0.5).astype(np.uint8)
    return np.ascontiguousarray(_upright(frame, converted))


def _upright(frame: Any, picture: np.ndarray) -> np.ndarray:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV 18 cannot list the side data of photos with EXIF; the angle alone it can still tell.
        return np.rot90(picture, round(frame.rotation / 90))
    if matrix is None:
        return picture
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), dtype="<i4")
    # The matrix maps (x, y) to (a x + c y, b x + d y), to the nearest quarter turn, perhaps mirrored.
    if abs(int(b)) > abs(int(a)):
        picture, a, d = picture.swapaxes(0, 1), c, b
    if a < 0:
        picture = picture[:, ::-1]
    return picture[::-1] if d < 0 else picture
