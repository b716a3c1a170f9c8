"""Recorded clips to a pair store: each clip of the manifest becomes a reference and a target."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..config import Backbone
from ..errors import SlotIDError
from ..faces import Faces, prepare_faces
from ..latents import EncodeVideo, encode_frames
from ..model import token_saliency
from ..video import Clip, load_video
from .captions import TEXT_TOKENS, caption_embedder
from .config import setting
from .data import Entry, StoreWriter, encoder_sha256

PART = 16
MARGIN = 0.6
CELL = 8  # pixels to one latent cell along a side
SAMPLES = 4  # along each side of a latent cell
# Of this only the latent channels matter to the VAE: 16, of Wan 2.1 and of Wan 2.2 14B.
LATENTS = Backbone("wan2.1", width=1, depth=1)


@dataclass(frozen=True)
class ClipsSection:
    """Recorded clips.

    Args:
        manifest: JSON lines, each with person, take, video (a path, from the manifest's folder) and caption, and, if
            the clip does not begin with the file, start in seconds. Clips of one person and take are one recording.
            "" for no clips.
        text_encoder: folder of Wan's text encoder and tokenizer.
        detector: who finds the faces.
        fps: frames per second that are taken.
        reference_frames, target_frames: length of each, 4k + 1.
        crop_size: side of the reference's face crops, the encoder's own.
        width, height: of the targets, multiples of 16. A clip is scaled to cover them and cut around the face.
    """

    manifest: str = ""
    text_encoder: str = ""
    detector: Literal["dlib", "insightface", "whole_frame"] = "dlib"
    fps: float = setting(16.0, 1, 240)
    reference_frames: int = setting(33, 1)
    target_frames: int = setting(81, 1)
    crop_size: int = setting(256, 32, 1024)
    width: int = setting(832, 16)
    height: int = setting(480, 16)


@dataclass(frozen=True)
class Line:
    """One line of a manifest."""

    person: str
    take: str
    video: Path
    caption: str
    start: float


def fill_clip_store(folder: Path, vae_file: Path, section: ClipsSection, device: torch.device) -> None:
    """Fill a store from the manifest; goes on where it was. A clip that is no use is left out, and said so.

    Raises:
        SlotIDError: a manifest or a model that cannot be read, sizes that do not fit.
    """
    from tqdm import tqdm

    from ..pipelines.wan import encode_video, load_wan_vae

    for name, value, fine in (
        ("reference_frames", section.reference_frames, section.reference_frames % 4 == 1),
        ("target_frames", section.target_frames, section.target_frames % 4 == 1),
        ("crop_size", section.crop_size, section.crop_size % 16 == 0),
        ("width", section.width, section.width % 16 == 0),
        ("height", section.height, section.height % 16 == 0),
    ):
        if not fine:
            raise SlotIDError(f"data.clips.{name} = {value}", "4k + 1 frames, sides in 16s", "correct the config.")
    lines = list(read_manifest(Path(section.manifest)))
    sizes = {name: value for name, value in vars(section).items() if name not in ("manifest", "text_encoder")}
    writer = StoreWriter(folder, {"source": "clips", "vae": encoder_sha256(vae_file), **sizes}, TEXT_TOKENS)
    # A killed filling may have written a part's references and not its targets: targets come last.
    done = writer.done("target")
    todo = [line for line in lines if (line.person, line.take) not in done]
    if not todo:
        return
    encode = encode_video(load_wan_vae(vae_file, device=device))
    embed = caption_embedder(Path(section.text_encoder), device)
    with tqdm(total=len(todo), desc="clips") as bar:
        for start in range(0, len(todo), PART):
            _add_part(writer, todo[start : start + PART], section, encode, embed, bar)


def read_manifest(path: Path) -> Iterator[Line]:
    """The lines of a manifest, checked.

    Raises:
        SlotIDError: no such file, or naming the line that is wrong.
    """
    if not path.is_file():
        raise SlotIDError(f"no manifest {str(path)!r}", "a file of JSON lines", "correct data.clips.manifest.")
    seen: set[tuple[str, str]] = set()
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        line = _line(path, number, text)
        if (line.person, line.take) in seen:
            raise _wrong(path, number, f"person {line.person!r} take {line.take!r} a second time")
        seen.add((line.person, line.take))
        yield line


def _line(path: Path, number: int, text: str) -> Line:
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise _wrong(path, number, f"no JSON ({error})") from error
    texts = ("person", "take", "video", "caption")
    whole = isinstance(data, dict) and set(texts) <= data.keys() <= {*texts, "start"}
    if not whole or not all(isinstance(data[name], str) for name in texts):
        raise _wrong(path, number, f"{text:.100}")
    start = data.get("start", 0.0)
    if isinstance(start, bool) or not isinstance(start, int | float) or not 0 <= start < float("inf"):
        raise _wrong(path, number, f"start = {start!r}")
    return Line(data["person"], data["take"], path.parent / data["video"], data["caption"], float(start))


def _add_part(
    writer: StoreWriter,
    lines: list[Line],
    section: ClipsSection,
    encode: EncodeVideo,
    embed: Callable[[str], Tensor],
    bar: Any,
) -> None:
    used, left_out, references, targets = [], [], [], []
    for line in lines:
        bar.update()
        if not line.video.is_file():
            # Not for good: the file may come, or the manifest be corrected.
            bar.write(f"left out: {line.person}, {line.take}: no file {str(line.video)!r}")
            continue
        try:
            reference, target = _prepare(line, section, encode)
        except SlotIDError as error:
            bar.write(f"left out: {line.person}, {line.take}: {error.found}")
            left_out.append((line.person, line.take))
        else:
            used.append(line)
            references.append(reference)
            targets.append(target)
    numbers = writer.number_texts([line.caption for line in used], embed)
    for target, line in zip(targets, used, strict=True):
        target["text"] = torch.tensor(numbers[line.caption])
    for role, rows, frames in (
        ("reference", references, section.reference_frames),
        ("target", targets, section.target_frames),
    ):
        # Of a part that was interrupted, the references may be there already.
        done = writer.done(role)
        new = [(line, row) for line, row in zip(used, rows, strict=True) if (line.person, line.take) not in done]
        entries = [Entry(line.person, line.take, frames, line.video.name) for line, _ in new]
        tensors = {name: torch.stack([row[name] for _, row in new]) for name in rows[0]} if new else {}
        if entries or left_out:
            writer.add(role, entries, tensors, left_out)


def _prepare(line: Line, section: ClipsSection, encode: EncodeVideo) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of one clip as reference and as target. Raises SlotIDError for a clip that is no use."""
    clip = load_video(
        line.video, frames=max(section.reference_frames, section.target_frames), fps=section.fps, start=line.start
    )
    faces = prepare_faces(clip, detector=section.detector, size=section.crop_size, margin=MARGIN)
    for found, needed in ((len(faces.crops), section.reference_frames), (len(clip.frames), section.target_frames)):
        if found < needed:
            raise SlotIDError(f"{found} of {needed} frames with the person", "a longer clip", "record another.")
    if faces.coverage.cuts:
        raise SlotIDError("a cut in the clip", "one shot", "cut the clip there.")
    crops, masks = faces.crops[: section.reference_frames], faces.masks[: section.reference_frames]
    reference = {
        "latents": encode_frames(crops, encode, LATENTS).half(),
        "saliency": token_saliency(masks, section.crop_size // CELL).half(),
    }
    frames, face = cut_target(clip, faces, section)
    return reference, {"latents": encode_frames(frames, encode, LATENTS).half(), "face": face.half()}


def cut_target(clip: Clip, faces: Faces, section: ClipsSection) -> tuple[Tensor, Tensor]:
    """The target's frames [T, height, width, 3] and how much of each latent cell is face [F, height/8, width/8].

    The frames are scaled to cover the size and cut where the face is, in the mean; its place in each frame is that of
    the nearest frame in which it was followed.
    """
    frames = clip.frames[: section.target_frames]
    rows, columns = frames.shape[1:3]
    scale = max(section.height / rows, section.width / columns)
    size = (max(section.height, round(rows * scale)), max(section.width, round(columns * scale)))
    frames = torch.nn.functional.interpolate(frames.movedim(-1, 1), size, mode="bilinear", antialias=True)
    times = clip.timestamps[: section.target_frames]
    nearest = (times[:, None] - faces.clip.timestamps[None]).abs().argmin(1)
    boxes = faces.boxes[nearest] * scale
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    corner = centre.mean(0) - torch.tensor([section.width, section.height]) / 2
    left = int(corner[0].round().clamp(0, size[1] - section.width))
    top = int(corner[1].round().clamp(0, size[0] - section.height))
    frames = frames[:, :, top : top + section.height, left : left + section.width].movedim(1, -1)
    # The face is a disc in the crop's square, without the crop's margin.
    margin = 0.0 if section.detector == "whole_frame" else MARGIN
    radius = (boxes[:, 2] - boxes[:, 0]) / 2 / (1 + margin)
    step = CELL / SAMPLES
    y = (torch.arange(section.height // CELL * SAMPLES) + 0.5) * step + top
    x = (torch.arange(section.width // CELL * SAMPLES) + 0.5) * step + left
    distance = torch.hypot(x[None, None, :] - centre[:, 0, None, None], y[None, :, None] - centre[:, 1, None, None])
    inside = (distance <= radius[:, None, None]).float()
    cells = torch.nn.functional.avg_pool2d(inside, SAMPLES)
    return frames.contiguous(), torch.cat([cells[:1], cells[1:].unflatten(0, (-1, 4)).mean(1)])


def _wrong(path: Path, number: int, found: str) -> SlotIDError:
    return SlotIDError(
        f"{path.name}, line {number}: {found}",
        '{"person": "...", "take": "...", "video": "...", "caption": "..."}, and "start" in seconds if need be',
        "correct that line.",
    )
