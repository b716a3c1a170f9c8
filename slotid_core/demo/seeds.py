"""Seeded random streams: one `torch.Generator` per named purpose, so that no draw depends on another or on batching."""

from __future__ import annotations

import hashlib

import torch


def stream(*key: str | int) -> torch.Generator:
    """CPU generator seeded from a key such as ("reference", person, take).

    Neighbouring integers give unrelated streams, because the seed is a hash of the whole key.
    """
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """One float in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """One integer in low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def choice(generator: torch.Generator, options: tuple) -> object:
    """One of `options`, each as likely as the others."""
    return options[integer(generator, 0, len(options) - 1)]
