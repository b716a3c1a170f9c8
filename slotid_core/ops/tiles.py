"""How the reference walks the tokens: some problems at a time, some of their tokens at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


class Tokens:
    """The tokens of some problems [g], in tiles of at most `size` scores, computed with in `dtype`."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, log_b: Tensor, eps: float, size: int, dtype: torch.dtype
    ) -> None:
        self.scale = 1.0 / (math.sqrt(q.shape[-1]) * eps)
        # The scale on the few queries, not on the many scores.
        self.q, self.k, self.v, self.log_b, self.dtype = q.to(dtype) * self.scale, k, v, log_b, dtype
        self.scores, self.count = q.shape[0] * q.shape[1], k.shape[-2]
        self.length = max(1, size // self.scores)
        # On the CPU a look at the values costs nothing; elsewhere it would wait for the device.
        self.may_look = q.device.type == "cpu"

    def tiles(self) -> Iterator[Tile]:
        firsts = range(0, self.count, self.length)
        return (Tile(self, slice(first, min(first + self.length, self.count))) for first in firsts)


class Tile:
    """Some tokens [T] of some problems [g], in the precision of the computation."""

    def __init__(self, tokens: Tokens, where: slice) -> None:
        self.tokens, self.where = tokens, where
        self.log_b = tokens.log_b[:, where].to(tokens.dtype).unsqueeze(-2)
        self.b = self.log_b.exp()
        # A masked token may hold NaN: 0 * NaN would leak, so its key and value are taken out, not weighted away.
        self.masked = (self.log_b == -math.inf).mT
        if tokens.may_look and not self.masked.any():
            self.masked = None

    def k(self) -> Tensor:
        """[g, T, d]."""
        return self._clean(self.tokens.k)

    def v(self) -> Tensor:
        """[g, T, dv]."""
        return self._clean(self.tokens.v)

    def scores(self) -> Tensor:
        """x [g, S, T], a new tensor; 0 for a masked token."""
        return torch.bmm(self.tokens.q, self.k().mT)

    def _clean(self, values: Tensor) -> Tensor:
        values = values[:, self.where].to(self.tokens.dtype)
        return values if self.masked is None else values.masked_fill(self.masked, 0)


def groups(
    q: Tensor, k: Tensor, v: Tensor, log_b: Tensor, eps: float, size: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tokens]]:
    """Problems, as many at once as fill a tile of `size` scores."""
    P = math.prod(q.shape[:-2])
    q, k, v = (t.reshape(P, *t.shape[-2:]) for t in (q, k, v))
    log_b = log_b.reshape(P, -1)
    count = max(1, size // (q.shape[-2] * k.shape[-2]))
    for first in range(0, P, count):
        some = slice(first, first + count)
        yield some, Tokens(q[some], k[some], v[some], log_b[some], eps, size, dtype)
