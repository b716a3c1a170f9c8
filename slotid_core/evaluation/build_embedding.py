"""Train the frame embedding with an ArcFace loss (Deng et al., arXiv 1801.07698) on renders of training people.

With thousands of classes of ten frames, learnt class centres are seen too seldom to get anywhere in the steps a CPU
has. Here a person's centre is the mean of their other frames in the batch, so that every step teaches every class.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..demo.fitting import Plan, fit
from ..demo.seeds import stream
from .networks import EmbeddingNet
from .renders import FRAMES_PER_PERSON, TAKES, cached, embedding_part, to_network
from .softness import Codec, drifting, softened

PEOPLE = 4096
PART = 128
# One frame of each of four takes: two as rendered, one softened, one through a codec.
BATCH_PEOPLE, BATCH_FRAMES = 48, 4
SCALE, MARGIN, MARGIN_FROM = 16.0, 0.2, 600
PLAN = Plan(steps=2000, matrix_rate=0.01, other_rate=1e-3, warmup=50, decay=1500, average=0.99)
_NORM_BATCHES = 24


def arcface(vectors: Tensor, margin: float) -> Tensor:
    """Mean loss of unit vectors [P, n, d] of n frames of P people.

    The cross-entropy of SCALE times the cosines to the people's centres, the angle to one's own enlarged by `margin`
    radians. A centre is the mean direction of a person's frames, of one's own those other than the frame itself.
    """
    total = vectors.sum(1)
    others = F.normalize(total[:, None] - vectors, dim=-1)
    own = (vectors * others).sum(-1).clamp(-1 + 1e-6, 1 - 1e-6)
    enlarged = own * math.cos(margin) - (1 - own.square()).sqrt() * math.sin(margin)
    cosines = vectors @ F.normalize(total, dim=-1).T
    labels = torch.arange(len(vectors))[:, None].expand(own.shape)
    logits = SCALE * cosines.scatter(2, labels[..., None], enlarged[..., None])
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def train_embedding(folder: Path, seed: int, steps: int, people: int) -> EmbeddingNet:
    """The embedding's averaged weights after `steps` of 4 frames of each of 48 people out of `people` (a multiple of
    128); a person's mirror image is another person."""
    frames = cached("embedding", embedding_part, people, folder, PART)["frames"]
    torch.manual_seed(seed)
    net = EmbeddingNet().to(memory_format=torch.channels_last)
    codec = Codec(drifting(to_network(frames[: 8 * PART, 0]), stream("embedding codec", seed)))

    def batch(step: int) -> Tensor:
        generator = stream("embedding", seed, step)
        who = torch.randint(people, (BATCH_PEOPLE, 1), generator=generator)
        takes = torch.rand(BATCH_PEOPLE, TAKES, generator=generator).argsort(1)[:, :BATCH_FRAMES]
        each = FRAMES_PER_PERSON // TAKES
        picked = takes * each + torch.randint(each, takes.shape, generator=generator)
        pictures = to_network(frames[who, picked])
        mirror = torch.rand(BATCH_PEOPLE, generator=generator) < 0.5
        pictures = torch.where(mirror[:, None, None, None, None], pictures.flip(-1), pictures)
        soft = softened(pictures[:, :1], generator)
        coded = codec.stills(pictures[:, 1], generator)[:, None]
        return torch.cat([soft, coded, pictures[:, 2:]], 1)

    def features(step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net.frame(batch(step).flatten(0, 1)).float()

    def loss(step: int) -> Tensor:
        # Normalised over the batch: features of unlike pictures start out nearly parallel.
        vectors = net.project(F.batch_norm(features(step), None, None, training=True))
        margin = MARGIN * min(1.0, step / MARGIN_FROM)
        return arcface(vectors.unflatten(0, (BATCH_PEOPLE, BATCH_FRAMES)), margin)

    plan = replace(PLAN, steps=steps)
    named = dict(net.named_parameters())
    net.load_state_dict(fit("embedding", named, loss, plan, folder, matrices=lambda name: name != "out.weight"))
    with torch.no_grad():
        seen = torch.cat([features(steps + number) for number in range(_NORM_BATCHES)])
    return folded(net, seen).eval().requires_grad_(False)


@torch.no_grad()
def folded(net: EmbeddingNet, features: Tensor) -> EmbeddingNet:
    """The network that takes features as they are where this one took them normalised as these [N, width] are."""
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    net.out.weight.div_((deviation.square() + 1e-5).sqrt())
    net.out.bias.sub_(net.out.weight @ mean)
    return net
