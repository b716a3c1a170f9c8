"""Reading people and prompts from the pixels of a video, with the packaged probe."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import checkpoint
from ..demo.people import MARKS
from ..errors import SlotIDError
from .networks import FEATURES, FRAMES, SIDE, EmbeddingNet, ProbeNet
from .renders import to_network
from .targets import HUES, KINDS, NUMERIC, VOCABULARIES, YAW_SCALE, unstandardised

ASSETS = Path(__file__).resolve().parent / "assets"
PROBE_FILE = ASSETS / "probe.safetensors"
EMBEDDING_FILE = ASSETS / "embedding.safetensors"
COMPONENTS = 16
MAX_BYTES = 8 * 2**20
BATCH = 32
# Frames of a video that are compared with a person's gallery.
EMBEDDED_FRAMES = 5


@dataclass(frozen=True)
class Reading:
    """What the probe says of N videos.

    numbers: [N] float32 by parameter, in the demo world's own units; hues in [0, 1).
    kinds: [N] int64 by mark ("mark_left"), the place in MARKS.
    words: [N] int64 by "pose", "expression", "background", the place in its vocabulary.
    yaw: [N] degrees, the mean over the video.
    features: [N, 16] for the distance between crowds of videos; unit variance on real renders.
    """

    numbers: dict[str, Tensor]
    kinds: dict[str, Tensor]
    words: dict[str, Tensor]
    yaw: Tensor
    features: Tensor


class Probe(nn.Module):
    """The probe's network with the axes along which crowds of videos are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ProbeNet()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("axes", torch.zeros(COMPONENTS, FEATURES))

    @torch.no_grad()
    def fit_axes(self, clips: Tensor) -> None:
        """Take the principal axes of the features of real renders [N, 17, 3, 64, 64]."""
        features = torch.cat([self.net(part)[1] for part in clips.split(BATCH)])
        self.mean.copy_(features.mean(0))
        _, values, vectors = torch.linalg.svd(features - self.mean, full_matrices=False)
        deviations = values[:COMPONENTS, None] / math.sqrt(len(features))
        self.axes.copy_(vectors[:COMPONENTS] / deviations)

    @torch.no_grad()
    def read(self, videos: Tensor) -> Reading:
        """Read videos [N, 17, 64, 64, 3], uint8 or in [0, 1], wherever the probe's weights are.

        Raises:
            SlotIDError: videos of another shape.
        """
        if videos.shape[1:] != (FRAMES, SIDE, SIDE, 3):
            raise SlotIDError(
                f"videos of shape {list(videos.shape)}", f"[N, {FRAMES}, {SIDE}, {SIDE}, 3]", "scale them to that size."
            )
        made = [self.net(to_network(part.to(self.mean.device)))[:2] for part in videos.split(BATCH)]
        outputs = {name: torch.cat([part[name] for part, _ in made]).cpu() for name in made[0][0]}
        features = torch.cat([(part - self.mean) @ self.axes.T for _, part in made]).cpu()
        numeric = {name: unstandardised(name, outputs["numeric"][:, i]) for i, name in enumerate(NUMERIC)}
        sine, cosine = outputs["hues"].unflatten(-1, (len(HUES), 2)).unbind(-1)
        angles = torch.atan2(sine, cosine) / (2 * math.pi) % 1.0
        kinds = outputs["kinds"].unflatten(-1, (len(KINDS), len(MARKS))).argmax(-1)
        return Reading(
            numbers={**numeric, **{name: angles[:, i] for i, name in enumerate(HUES)}},
            kinds={name: kinds[:, i] for i, name in enumerate(KINDS)},
            words={name: outputs[name].argmax(-1) for name in VOCABULARIES},
            yaw=outputs["yaw"][:, 0] * YAW_SCALE,
            features=features,
        )


def load_probe(path: Path = PROBE_FILE) -> Probe:
    """The packaged probe, or another file of the same format."""
    return _load(path, Probe(), "slot-id-probe")


def load_embedding(path: Path = EMBEDDING_FILE) -> EmbeddingNet:
    """The packaged frame embedding, or another file of the same format."""
    return _load(path, EmbeddingNet(), "slot-id-embedding")


def described(path: Path) -> dict:
    """What a judge's file says of itself: what it was trained on, and how well it reads held-out renders."""
    metadata = checkpoint.read_header(path, max_bytes=MAX_BYTES).metadata
    return {**metadata, "accuracy": json.loads(metadata.get("accuracy", "{}"))}


@torch.no_grad()
def embed_frames(net: EmbeddingNet, frames: Tensor) -> Tensor:
    """Unit vectors [N, 64] of frames [N, 64, 64, 3], uint8 or in [0, 1], on the CPU."""
    device = net.out.weight.device
    return torch.cat([net(to_network(part.to(device))).cpu() for part in frames.split(8 * BATCH)])


def embed_videos(net: EmbeddingNet, videos: Tensor) -> Tensor:
    """Unit vectors [N, 64] of videos [N, T, 64, 64, 3]: the mean over five frames spread over each, on the CPU."""
    shown = torch.linspace(0, videos.shape[1] - 1, EMBEDDED_FRAMES).round().long()
    vectors = embed_frames(net, videos[:, shown].flatten(0, 1))
    return nn.functional.normalize(vectors.unflatten(0, (-1, EMBEDDED_FRAMES)).mean(1), dim=-1)


def _load(path: Path, net: nn.Module, format: str) -> nn.Module:
    header = checkpoint.read_header(path, max_bytes=MAX_BYTES)
    if header.metadata.get("format") != format:
        raise SlotIDError(f"{path.name!r} is no {format} file", f"a file of format {format}", "install the pack again.")
    expected = {name: (checkpoint.FLOATS, tuple(t.shape)) for name, t in net.state_dict().items()}
    tensors = checkpoint.read_tensors(path, expected, header)
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return net.eval().requires_grad_(False)
