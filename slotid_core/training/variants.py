"""The readers that the full encoder is measured against, each made of its own parts and of as many parameters.

A variant differs from the full encoder in one thing: what it is given to read, how its slots share the tokens of a
frame, or how they remember. All have the same tokenizer, slots, tokens out and conditioning, so equal data, order and
steps give a fair comparison. Only `oracle` reads no clip at all: it is told the person's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import SlotIDConfig
from ..errors import SlotIDError
from ..model import SlotID
from ..slots import ClipRead, IdentityEncoder, Read, RoutingTrace, SlotReader, SlotRouter
from ..tokens import mlp


class SoftmaxRouter(SlotRouter):
    """Each slot takes a softmax over the tokens, whatever the other slots take: plain cross-attention."""

    def forward(self, state: Tensor, k: Tensor, v: Tensor, log_b: Tensor) -> Read:
        q = F.rms_norm(self.query(self.norm_slots(state)).unflatten(-1, (self.heads, -1)).transpose(1, 2), k.shape[-1:])
        scores = self.scores(q, k, log_b)
        share = scores.softmax(-1)
        out = self.out((share @ v).transpose(1, 2).flatten(2))
        # The trace's last row is a dustbin; there is none here, and no marginal that could be missed.
        plan = F.pad(share.mean(1), (0, 0, 0, 1)) / self.slots
        return Read(out, scores.logsumexp(-1).transpose(1, 2), plan, torch.zeros_like(log_b[:, 0]))


class NoDustbinRouter(SlotRouter):
    """Sinkhorn routing in which the slots must explain every token."""

    def _log_marginal(self) -> Tensor:
        slots = self.dustbin_logit.new_full((self.slots,), -math.log(self.slots))
        # A row of mass zero takes nothing: the plan is that of the slots alone.
        return torch.cat([slots, slots.new_full((1,), -math.inf)]).float()


class MeanReader(SlotReader):
    """All tokens of all frames pooled into one mean; the slots differ only in their learned start."""

    def forward(self, tokens: Tensor, log_b: Tensor) -> ClipRead:
        _, values = self.router.keys_values(tokens)
        share = log_b.softmax(-1).to(values.dtype)
        pooled = torch.einsum("bfn,bfhnd->bhd", share, values).flatten(1) / tokens.shape[1]
        held = self.router.out(pooled).unsqueeze(1).expand(-1, self.router.slots, -1)
        plan = share.unsqueeze(2).expand(-1, -1, self.router.slots + 1, -1)
        return self._at_once(held, plan)

    def _at_once(self, held: Tensor, plan: Tensor) -> ClipRead:
        """The same states at two moments, so that tokens of appearance and of dynamics are both made of them."""
        states = self.state_of(held).unsqueeze(1).expand(-1, 2, -1, -1)
        return ClipRead(states, plan, plan.new_zeros(plan.shape[:2]), _as_much(held))


class SetReader(MeanReader):
    """The slots read all tokens of all frames at once, as a set."""

    def forward(self, tokens: Tensor, log_b: Tensor) -> ClipRead:
        keys, values = self.router.keys_values(tokens)
        B, frames = tokens.shape[:2]
        k, v = (part.transpose(1, 2).flatten(2, 3) for part in (keys, values))
        read = self.router(self.initial.expand(B, -1, -1), k, v, log_b.flatten(1) - math.log(frames))
        return self._at_once(read.out, read.plan.unflatten(-1, (frames, -1)).transpose(1, 2))


class AverageReader(SlotReader):
    """The slots read each frame from their learned start; a running mean stands in for the GRU."""

    def forward(self, tokens: Tensor, log_b: Tensor) -> ClipRead:
        keys, values = self.router.keys_values(tokens)
        start = self.initial.expand(tokens.shape[0], -1, -1)
        reads = [self.router(start, keys[:, t], values[:, t], log_b[:, t]) for t in range(tokens.shape[1])]
        out, _, plans, errors = (torch.stack(parts, 1) for parts in zip(*reads, strict=True))
        count = torch.arange(1, len(reads) + 1, device=tokens.device).view(1, -1, 1, 1)
        return ClipRead(self.state_of(out.cumsum(1) / count), plans, errors, _as_much(out[:, 0]))


class OracleEncoder(IdentityEncoder):
    """The ceiling: tokens made from the person's parameters instead of a clip."""

    def __init__(self, config: SlotIDConfig, parameters: int) -> None:
        super().__init__(config)
        width = config.encoder.width
        self.told = nn.Sequential(nn.Linear(parameters, width), nn.GELU(), mlp(width))

    def forward(self, latents: Tensor, saliency: Tensor | None = None) -> tuple[Tensor, RoutingTrace]:
        """`latents` [B, parameters] are the person's parameters, scaled to about -1 .. 1."""
        states = self.reader.state_of(self.told(latents).unsqueeze(1))
        B, S = states.shape[:2]
        trace = RoutingTrace(latents.new_zeros(B, 1, S + 1, 1), latents.new_zeros(B, 1), (1, 1), _as_much(states))
        return self.out(states.unsqueeze(1).expand(-1, 2, -1, -1)), trace


def _as_much(states: Tensor) -> Tensor:
    """The evidence [B, S] of readers that keep none: one clip's is like any other's."""
    return states.new_zeros(states.shape[:2])


@dataclass(frozen=True)
class Variant:
    """A reader of the comparison.

    Attributes:
        says: in a few words, for tables.
        reference: what it reads: "clip", a still of it ("first", "random", "frontal"), or "parameters".
        build: config and the number of parameters of a person to the encoder.
    """

    says: str
    reference: str
    build: Callable[[SlotIDConfig, int], nn.Module]


def _with(
    reader: type[SlotReader] = SlotReader, router: type[SlotRouter] = SlotRouter
) -> Callable[[SlotIDConfig, int], nn.Module]:
    def build(config: SlotIDConfig, parameters: int) -> nn.Module:
        encoder = IdentityEncoder(config)
        # The same weights in another class: parts, names and count stay those of the full encoder.
        encoder.reader.__class__, encoder.reader.router.__class__ = reader, router
        return encoder

    return build


VARIANTS = {
    "first": Variant("photo: the clip's first frame", "first", _with()),
    "random": Variant("photo: a random frame", "random", _with()),
    "frontal": Variant("photo: the most frontal frame", "frontal", _with()),
    "mean": Variant("mean-pooled tokens", "clip", _with(reader=MeanReader)),
    "softmax": Variant("softmax slots", "clip", _with(SetReader, SoftmaxRouter)),
    "softmax_gru": Variant("softmax slots + GRU", "clip", _with(router=SoftmaxRouter)),
    "sinkhorn": Variant("Sinkhorn slots, no GRU", "clip", _with(reader=AverageReader)),
    "no_dustbin": Variant("Sinkhorn + GRU, no dustbin", "clip", _with(router=NoDustbinRouter)),
    "full": Variant("full: Sinkhorn + GRU + dustbin", "clip", _with()),
    "oracle": Variant("told the parameters (ceiling)", "parameters", OracleEncoder),
}


def variant(name: str) -> Variant:
    """A variant by name. Raises SlotIDError for an unknown one."""
    if name not in VARIANTS:
        raise SlotIDError(f"the variant {name!r}", f"one of {', '.join(VARIANTS)}", "choose one of these")
    return VARIANTS[name]


def new_variant(name: str, config: SlotIDConfig, seed: int, parameters: int = 0) -> SlotID:
    """A model with the variant's encoder; the same seed gives every variant the same first weights.

    Args:
        name: of the variant.
        config: of the full model.
        seed: of the weights.
        parameters: numbers of a person that `oracle` is told.
    """
    torch.manual_seed(seed)
    model = SlotID(config)
    torch.manual_seed(seed)
    model.encoder = variant(name).build(config, parameters)
    return model
