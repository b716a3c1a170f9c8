"""Train the frame embedding with an ArcFace loss (Deng et al., arXiv 1801.07698) on renders of training people."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..demo.fitting import Plan, fit
from ..demo.seeds import stream
from .build_probe import softened
from .networks import EmbeddingNet
from .renders import FRAMES_PER_PERSON, cached, embedding_part, to_network

PEOPLE = 4096
PART = 128
BATCH = 128
SCALE, MARGIN = 24.0, 0.3
PLAN = Plan(steps=2000, matrix_rate=0.02, other_rate=2e-3, warmup=50, decay=1000, average=0.99)


class ArcFace(nn.Module):
    """Embedding and the directions of its classes; a person's mirror image is a class of its own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = EmbeddingNet().to(memory_format=torch.channels_last)
        # Short vectors turn quickly: only their directions count, and a step moves each number by about the rate.
        self.classes = nn.Parameter(0.05 * torch.randn(classes, self.net.out.out_features))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of scaled cosines, the true class's angle enlarged by the margin; of frame features [N, d]."""
        cosines = self.net.project(features) @ F.normalize(self.classes, dim=-1).T
        true = cosines.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        with_margin = true * math.cos(MARGIN) - (1 - true.square()).sqrt() * math.sin(MARGIN)
        return F.cross_entropy(SCALE * cosines.scatter(1, labels[:, None], with_margin), labels)


def train_embedding(folder: Path, seed: int, steps: int, people: int) -> EmbeddingNet:
    """The embedding's averaged weights after `steps` of 128 frames of `people` (a multiple of 128)."""
    frames = cached("embedding", embedding_part, people, folder, PART)["frames"].flatten(0, 1)
    torch.manual_seed(seed)
    model = ArcFace(2 * people)

    def loss(step: int) -> Tensor:
        generator = stream("embedding", seed, step)
        rows = torch.randint(len(frames), (BATCH,), generator=generator)
        mirror = torch.rand(BATCH, generator=generator) < 0.5
        pictures = to_network(frames[rows])
        pictures = torch.where(mirror[:, None, None, None], pictures.flip(-1), pictures)
        # As clips of one frame, half of them softened.
        soft = softened(pictures[: BATCH // 2, None], generator)[:, 0]
        pictures = torch.cat([soft, pictures[BATCH // 2 :]])
        with torch.autocast("cpu", torch.bfloat16):
            features = model.net.frame(pictures)
        return model(features.float(), rows // FRAMES_PER_PERSON + people * mirror)

    def matrices(name: str) -> bool:
        return name != "classes" and not name.startswith("net.out")

    plan = Plan(**{**vars(PLAN), "steps": steps})
    model.load_state_dict(fit("embedding", dict(model.named_parameters()), loss, plan, folder, matrices=matrices))
    return model.net.eval().requires_grad_(False)
