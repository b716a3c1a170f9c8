"""What the commands share: options, checks of output files, progress, captions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SlotIDError

if TYPE_CHECKING:
    import torch

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
UNTRAINED = "untrained demo weights"
# Smaller pictures are enlarged before they are shown: the demo world's are 64 pixels.
SHOWN_SIDE = 256
CAPTION_HEIGHT = 20
BAR = "{desc} {bar} {n_fmt}/{total_fmt}"


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        metavar="NAME",
        default="auto",
        help="where to compute: auto (a GPU if PyTorch sees one), cpu, cuda, cuda:1, mps (default: auto)",
    )


def add_force_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="overwrite files that exist already")


def add_face_options(parser: argparse.ArgumentParser) -> None:
    faces = parser.add_argument_group("which face")
    faces.add_argument(
        "--detector",
        choices=("dlib", "insightface", "whole_frame"),
        default="dlib",
        help="who finds the face; whole_frame: the clip shows only the face (default: dlib)",
    )
    faces.add_argument(
        "--person", type=person, default="largest", metavar="WHO", help="largest, leftmost, or 0, 1, 2 .. from the left"
    )


def add_part_options(parser: argparse.ArgumentParser) -> None:
    part = parser.add_argument_group("which part of the clip")
    part.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="where to begin (default: 0)")
    part.add_argument("--duration", type=float, metavar="SECONDS", help="how much to use (default: all the frames)")
    part.add_argument("--frames", type=int, default=33, help="the most frames to take, 4k + 1 of them (default: 33)")
    part.add_argument("--fps", type=float, default=16.0, help="frames to take per second of the clip (default: 16)")
    part.add_argument(
        "--keep", type=int, metavar="N", help="of these, keep the N that show most poses and expressions (default: all)"
    )


def person(text: str) -> str | int:
    """largest, leftmost, or the index of a person from the left."""
    if text in ("largest", "leftmost"):
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not largest, leftmost or a number (0 is the leftmost face)")


def chosen_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        SlotIDError: a name PyTorch does not know, or a device that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SlotIDError(
            f"--device {name}: {reason:.120}", "auto, cpu or a GPU of this computer", "leave out --device."
        ) from error
    return device


def check_outputs(outputs: Mapping[Path, tuple[str, ...]], *, force: bool) -> None:
    """Hold output files against their allowed name endings, and the disk, before any work is done.

    Raises:
        SlotIDError: another ending, a folder that is not there, or a file that exists without `force`.
    """
    for path, endings in outputs.items():
        if path.suffix.lower() not in endings:
            raise SlotIDError(
                f"the output {path.name!r}", f"a name ending in {' or '.join(endings)}", "give the output such a name."
            )
        if not path.parent.is_dir():
            raise SlotIDError(
                f"there is no folder {str(path.parent)!r}", "an existing folder", "create it, or choose another."
            )
        if path.is_dir() or (path.exists() and not force):
            raise SlotIDError(
                f"{str(path)!r} exists already",
                "a new name",
                "choose another name, or add --force to overwrite a file.",
            )


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar; yields a callback (done, total). Silent where the output is not a terminal."""
    from tqdm import tqdm

    with tqdm(desc=text, file=sys.stderr, disable=None, leave=False, bar_format=BAR) as bar:

        def update(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield update


def untrained(metadata: Mapping[str, str]) -> str:
    """The words that every picture of such weights carries; "" where the file's metadata claims a full training."""
    said = metadata.get("trained_on", "")
    return UNTRAINED if "demo weights, not trained" in said or "demo weights, briefly trained" in said else ""


def presentable(frames: torch.Tensor, words: str) -> torch.Tensor:
    """Frames [T,H,W,3] in [0,1], tiny ones enlarged by a whole factor, with the words (if any) in a strip below."""
    import torch

    factor = max(1, SHOWN_SIDE // min(frames.shape[1:3]))
    shown = frames.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if not words:
        return shown
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (shown.shape[2], CAPTION_HEIGHT), "black")
    ImageDraw.Draw(strip).text((6, 2), words, fill="white", font=ImageFont.load_default(size=13))
    pixels = torch.from_numpy(np.asarray(strip).astype("float32") / 255)
    return torch.cat([shown, pixels.expand(len(shown), -1, -1, -1).to(shown)], 1)


def size_of(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
