"""The demo world as a pair store (`training/data.py`): rendered, encoded and written in parts of 64 people.

Beside what every store holds, references carry what the baselines read: `random` and `frontal` [n, 16, 1, h, w], single
frames encoded alone, `parameters` [n, 30], the person's own numbers in -1 .. 1, in the order of `PARAMETERS`, and
`attributes` [n, 38], the same as a linear layer can give them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from ..latents import denormalise_wan21, normalise_wan21
from ..training.data import EMPTY, Entry, StoreWriter, encoder_sha256
from .clips import DemoClips, reference_clips, target_clips
from .geometry import rotation
from .people import MARKS, PARAMETERS, TRAIN, People
from .prompts import BACKGROUNDS, EXPRESSIONS, POSES, TOKENS, Prompt, embed_empty, embed_prompt
from .renderer import HEAD_CENTRE, HEAD_HEIGHT, ZOOM, Tracks
from .seeds import integer, stream
from .wan_vae import CausalConv3d, ResidualBlock, WanVAE

KINDS = ("mark_left", "mark_right")
PART = 64
BATCH = 16
ENCODED = 4  # clips at once: more do not fit a CPU's cache
EVERY_PROMPT = [Prompt(p, e, b) for p in POSES for e in EXPRESSIONS for b in BACKGROUNDS]
FACE_SAMPLES = 4  # along each side of a latent cell
HEAD_COUNTS = 0.15  # of the head around the features, which count 1
# Where on the head the features are that tell people apart, and how large: (across, up, ahead) in half axes of the
# head, radius in frame units. The eyes' own place is `eye_gap`, the last two are where a mole or an earring may be.
FEATURES = (
    (0.0, -0.60, 0.80, 0.20),
    ("eye_gap", 0.14, 0.90, 0.13),
    (0.78, -0.28, 0.60, 0.09),
    (1.04, -0.36, 0.0, 0.10),
)


def fill_demo_store(folder: Path, vae_file: Path, people: int, size: int, targets: int, references: int) -> None:
    """Fill a store with the first `people` training people; goes on where it was.

    Args:
        vae_file: a Wan 2.1 VAE of any width.
        size: side of the frames in pixels.
        targets, references: takes of each kind for each person.
    """
    from tqdm import tqdm

    settings = {"source": "demo world", "size": size, "vae": encoder_sha256(vae_file)}
    writer = StoreWriter(folder, settings, TOKENS)
    done = {role: writer.done(role) for role in ("reference", "target")}
    jobs = [("reference", take) for take in range(references)] + [("target", take) for take in range(targets)]
    todo = []
    for role, take in jobs:
        missing = [seed for seed in TRAIN[:people] if (str(seed), f"{role} {take}") not in done[role]]
        todo += [(role, take, missing[start : start + PART]) for start in range(0, len(missing), PART)]
    vae = load_vae(vae_file) if todo else None
    bar = tqdm(total=sum(len(seeds) for *_, seeds in todo), desc="demo clips", mininterval=5)
    for role, take, seeds in todo:
        make = _references if role == "reference" else _targets
        pieces = [make(vae, seeds[i : i + BATCH], take, size, writer) for i in range(0, len(seeds), BATCH)]
        tensors = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        frames = 4 * tensors["latents"].shape[2] - 3
        writer.add(role, [Entry(str(seed), f"{role} {take}", frames, "demo world") for seed in seeds], tensors)
        bar.update(len(seeds))
    bar.close()


def load_vae(path: Path) -> WanVAE:
    """A Wan 2.1 VAE file as the module that takes whole clips at once; branches that give a constant are not computed,
    which is exact."""
    tensors = {name: tensor.float() for name, tensor in safetensors.torch.load_file(path).items()}
    vae = WanVAE(tensors["encoder.conv1.weight"].shape[0])
    vae.load_state_dict(tensors)
    for module in vae.modules():
        if isinstance(module, CausalConv3d) and not module.weight[:, :, :-1].any():
            module.spatial = True
        if isinstance(module, ResidualBlock):
            module.skipped = not module.residual[-1].weight.any()
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode(vae: WanVAE, frames: Tensor) -> Tensor:
    """Frames [B,T,H,W,3] in [0, 1] to latents [B,16,F,h,w] in the model's space."""
    video = frames.permute(0, 4, 1, 2, 3) * 2 - 1
    return normalise_wan21(torch.cat([vae.encode(part)[0] for part in video.split(ENCODED)]))


@torch.no_grad()
def decode(vae: WanVAE, latents: Tensor) -> Tensor:
    """The inverse of `encode`, clamped to [0, 1]."""
    video = torch.cat([vae.decode(part) for part in denormalise_wan21(latents).split(ENCODED)])
    return (video / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)


def stills(clips: DemoClips, take: int) -> dict[str, Tensor]:
    """Which frame [B] of each reference a photo shows: "random" any, "frontal" the straightest that is not spoiled."""
    frames = clips.spoiled.shape[1]
    anywhere = [integer(stream("still", seed, take), 0, frames - 1) for seed in clips.people.seeds]
    turned = clips.tracks.yaw.abs() + 10.0 * clips.spoiled
    return {"random": torch.tensor(anywhere), "frontal": turned.argmin(1)}


def normalised_parameters(who: People) -> Tensor:
    """[B, 30] parameters in the order of `PARAMETERS`, each range brought to -1 .. 1."""
    columns = [(who[name] - low) / (high - low) * 2 - 1 for name, (low, high) in PARAMETERS.items()]
    return torch.stack(columns, -1)


def attributes(parameters: Tensor) -> Tensor:
    """`normalised_parameters` [B, 30] as [B, 38] of mean 0 and deviation 1: hues as sine and cosine, marks as kinds."""
    hues = [name.endswith("hue") and name != "skin_hue" for name in PARAMETERS]
    marks = [name in KINDS for name in PARAMETERS]
    plain = [not (hue or mark) for hue, mark in zip(hues, marks, strict=True)]
    angles = math.pi * parameters[:, hues]
    kinds = F.one_hot((parameters[:, marks] + 1).round().long(), len(MARKS)).flatten(1).to(parameters.dtype)
    share = 1 / len(MARKS)
    kinds = (kinds - share) / math.sqrt(share * (1 - share))
    return torch.cat([parameters[:, plain] * math.sqrt(3), angles.sin() * 2**0.5, angles.cos() * 2**0.5, kinds], 1)


def face_cells(who: People, tracks: Tracks, size: int) -> Tensor:
    """How much each latent cell [B, F, size/8, size/8] tells who is seen and how they look, 0 .. 1, from the tracks.

    1 at the mouth, the eyes and the places of marks as far as they are turned to the camera, `HEAD_COUNTS` on the rest
    of the head. The outline of an ellipsoid with half axes r turned by R is p^T ((R diag(r^2) R^T)[:2, :2])^-1 p = 1 on
    the screen.
    """
    side = size // 8 * FACE_SAMPLES
    line = ((torch.arange(side) + 0.5) * 2 / side - 1) / ZOOM
    clips, frames = tracks.yaw.shape
    turn = rotation(tracks.yaw.flatten(), tracks.pitch.flatten(), tracks.roll.flatten())
    width = _each_frame(HEAD_HEIGHT * who["aspect"], frames)
    radii = torch.stack([width, torch.full_like(width, HEAD_HEIGHT), torch.full_like(width, HEAD_HEIGHT * 0.92)], -1)
    outline = (turn * radii.square()[:, None] @ turn.transpose(1, 2))[:, :2, :2].inverse()
    x = line[None, None, :] - tracks.x.flatten()[:, None, None]
    y = -line[None, :, None] - HEAD_CENTRE - tracks.y.flatten()[:, None, None]
    a, b, c = (outline[:, i, j][:, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    counts = HEAD_COUNTS * (a * x * x + 2 * b * x * y + c * y * y <= 1).float()
    for across, up, ahead, radius in FEATURES:
        across = _each_frame(who[across], frames) if isinstance(across, str) else torch.full_like(width, across)
        for place in (across, -across):
            place = torch.stack([place, torch.full_like(width, up), torch.full_like(width, ahead)], -1) * radii
            px, py, pz = (turn @ place[..., None])[..., 0].unbind(-1)
            facing = (pz / HEAD_HEIGHT / 0.3 + 0.5).clamp(0, 1)[:, None, None]
            near = (x - px[:, None, None]).square() + (y - py[:, None, None]).square() <= radius**2
            counts = torch.maximum(counts, near * facing)
    cells = F.avg_pool2d(counts, FACE_SAMPLES).unflatten(0, (clips, frames))
    # One latent frame of the first frame, one of every four that follow.
    return torch.cat([cells[:, :1], cells[:, 1:].unflatten(1, (-1, 4)).mean(2)], 1)


def _each_frame(values: Tensor, frames: int) -> Tensor:
    """[B] to [B * frames]."""
    return values[:, None].expand(-1, frames).flatten()


def _references(vae: WanVAE, seeds: Sequence[int], take: int, size: int, writer: StoreWriter) -> dict[str, Tensor]:
    clips = reference_clips(seeds, take, size=size)
    rows = torch.arange(len(seeds))
    tensors = {name: clips.frames[rows, frame][:, None] for name, frame in stills(clips, take).items()}
    tensors = {name: encode(vae, frames).half() for name, frames in {"latents": clips.frames, **tensors}.items()}
    parameters = normalised_parameters(clips.people)
    return {"parameters": parameters, "attributes": attributes(parameters), **tensors}


def _targets(vae: WanVAE, seeds: Sequence[int], take: int, size: int, writer: StoreWriter) -> dict[str, Tensor]:
    clips = target_clips(seeds, take, size=size)
    numbers = writer.number_texts([str(prompt) for prompt in EVERY_PROMPT], _embed)
    return {
        "latents": encode(vae, clips.frames).half(),
        "face": face_cells(clips.people, clips.tracks, size).half(),
        "text": torch.tensor([numbers[str(prompt)] for prompt in clips.prompts]),
    }


def _embed(text: str) -> Tensor:
    if text == EMPTY:
        return embed_empty()
    prompt = next(prompt for prompt in EVERY_PROMPT if str(prompt) == text)
    return embed_prompt(prompt.pose, prompt.expression, prompt.background)
