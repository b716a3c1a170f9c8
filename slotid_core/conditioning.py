"""Identity tokens to a residual after each block of a frozen diffusion transformer.

After block i (every `stride`-th block):

    x <- x + strength * g_i(t) * W_o Attn(q = W_q LN(x), K = W_k E, V = W_v E)

with E the identity tokens, W_o zero-initialised, and g_i a gate from this module's own embedding of the flow time t in
[0, 1], so that every host gives the same. K and V depend on neither x nor the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import Backbone, ConditioningConfig

TIME_FEATURES = 64
# Elements of the hidden states that are worked on at once: enough to fill a large GPU, small beside the clip.
PART = 1 << 24


class PreparedIdentity(NamedTuple):
    """Keys and values of the identity tokens for each conditioned block, [1, heads, 2 S, d] each."""

    keys: dict[int, Tensor]
    values: dict[int, Tensor]


class BlockResidual(nn.Module):
    """The added cross-attention of one block."""

    def __init__(self, config: ConditioningConfig, width: int, identity_width: int, operations: Any, **kwargs) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = operations.LayerNorm(width, **kwargs)
        self.query = operations.Linear(width, config.inner_width, bias=False, **kwargs)
        self.key = operations.Linear(identity_width, config.inner_width, bias=False, **kwargs)
        self.value = operations.Linear(identity_width, config.inner_width, bias=False, **kwargs)
        self.out = operations.Linear(config.inner_width, width, bias=False, **kwargs)

    def split(self, x: Tensor) -> Tensor:
        """[B, L, inner] -> [B, heads, L, d]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, gate: Tensor) -> Tensor:
        """x: [B, L, width]; keys, values: [1 or B, heads, 2 S, d]; gate: [B]. Returns [B, L, width]."""
        q = self.split(self.query(self.norm(x)))
        # torch's own attention: a host's attention override is meant for the host's attention.
        B = x.shape[0]
        read = F.scaled_dot_product_attention(q, keys.expand(B, -1, -1, -1), values.expand(B, -1, -1, -1))
        # The gate scales the narrow read, not the wide output: the same product, less to touch.
        return self.out(read.transpose(1, 2).flatten(2) * gate.view(-1, 1, 1).to(read.dtype))


class Gates(nn.Module):
    """Flow time [B] in [0, 1] to one gate in (0, 1) per conditioned block; 0.5 everywhere before training."""

    def __init__(self, blocks: int, operations: Any, **kwargs) -> None:
        super().__init__()
        self.hidden = operations.Linear(TIME_FEATURES, TIME_FEATURES, **kwargs)
        self.out = operations.Linear(TIME_FEATURES, blocks, **kwargs)

    def forward(self, time: Tensor, dtype: torch.dtype) -> Tensor:
        """[B] -> [B, blocks]."""
        half = TIME_FEATURES // 2
        rates = torch.exp(torch.arange(half, device=time.device) * (-math.log(1e4) / half))
        angles = time.float().unsqueeze(-1) * 1000 * rates
        features = torch.cat([angles.cos(), angles.sin()], -1).to(dtype)
        return torch.sigmoid(self.out(F.silu(self.hidden(features))))


class IdentityConditioning(nn.Module):
    """The residuals of all conditioned blocks; the one adapter both hosts use.

    Args:
        config: its widths.
        backbone: the transformer it is for.
        identity_width: width D_id of identity tokens.
        operations: where Linear and LayerNorm come from (a host that manages memory brings its own).
        kwargs: device and dtype of the weights.
    """

    def __init__(
        self,
        config: ConditioningConfig,
        backbone: Backbone,
        identity_width: int,
        operations: ModuleType | type = nn,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.blocks_used = tuple(range(config.stride - 1, backbone.depth, config.stride))
        self.blocks = nn.ModuleDict(
            {
                str(block): BlockResidual(config, backbone.width, identity_width, operations, **kwargs)
                for block in self.blocks_used
            }
        )
        self.gates = Gates(len(self.blocks_used), operations, **kwargs)

    def reset_output(self) -> None:
        """Start of training: W_o zero, so nothing changes, and every gate at 0.5."""
        for block in self.blocks.values():
            nn.init.zeros_(block.out.weight)
        nn.init.zeros_(self.gates.out.weight)
        nn.init.zeros_(self.gates.out.bias)

    def prepare(self, tokens: Tensor) -> PreparedIdentity:
        """Keys and values of the identity tokens [2 S, D_id] or [B, 2 S, D_id], once per sampling run."""
        tokens = tokens if tokens.ndim == 3 else tokens.unsqueeze(0)
        blocks = {block: self.blocks[str(block)] for block in self.blocks_used}
        keys = {number: block.split(block.key(tokens)) for number, block in blocks.items()}
        values = {number: block.split(block.value(tokens)) for number, block in blocks.items()}
        return PreparedIdentity(keys, values)

    def gate(self, time: Tensor, dtype: torch.dtype) -> dict[int, Tensor]:
        """Gates [B] of each conditioned block at flow time [B] in [0, 1], once per call of the transformer."""
        return dict(zip(self.blocks_used, self.gates(time, dtype).unbind(-1), strict=True))

    def residual(self, block: int, x: Tensor, prepared: PreparedIdentity, gate: Tensor) -> Tensor:
        """The residual [B, L, width] of one block for hidden states x [B, L, width]; strength not included."""
        return self.blocks[str(block)](x, prepared.keys[block], prepared.values[block], gate)


def apply_residual(
    x: Tensor,
    residual: Callable[[Tensor, slice], Tensor],
    *,
    rows: Sequence[slice],
    tokens: slice,
    strength: float,
    owned: bool = False,
    weights: Sequence[Tensor] | None = None,
) -> Tensor:
    """Add a residual to some rows and tokens of the hidden states.

    Without gradients the tokens are taken a part at a time, so that what is needed on the way does not grow with the
    clip.

    Args:
        x: [B, L, width].
        residual: (x of the rows and some tokens [b, l, width], those rows) -> [b, l, width], each token's from that
            token alone.
        rows: the batch rows that carry the identity (the conditional ones).
        tokens: the tokens of the video itself, without a host's reference tokens.
        strength: factor.
        owned: x was made for this call and nobody else holds it, so it may be written to; otherwise it is not changed.
        weights: for each of the rows, a factor for each of the tokens [length of tokens]; None is 1 everywhere.

    Returns:
        x with the residual added, a new tensor unless it is owned; rows and tokens outside are bit-identical to x.
    """
    differentiated = torch.is_grad_enabled()
    # A gradient may still want an owned x as it was.
    result = x if owned and not differentiated else x.clone()
    whole = differentiated or torch.compiler.is_compiling()
    for number, part in enumerate(rows):
        for some in [tokens] if whole else _parts(x[part], tokens):
            added = residual(x[part, some], part)
            if weights is not None:
                added = added * _cut(weights[number], tokens, some, x.shape[1]).unsqueeze(-1)
            result[part, some].add_(added, alpha=strength)
    return result


def _cut(weights: Tensor, tokens: slice, some: slice, length: int) -> Tensor:
    """Weights of `tokens`, for some of them."""
    if some is tokens:
        return weights
    first = tokens.indices(length)[0]
    return weights[some.start - first : some.stop - first]


def _parts(x: Tensor, tokens: slice) -> list[slice]:
    """`tokens` cut so that a part of x [b, L, width] has at most PART elements."""
    first, last, _ = tokens.indices(x.shape[1])
    length = max(1, PART // (x.shape[0] * x.shape[2]))
    return [slice(start, min(start + length, last)) for start in range(first, last, length)]
