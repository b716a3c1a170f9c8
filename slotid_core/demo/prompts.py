"""The words of the demo world, and the fixed vectors that stand for them where a text encoder would.

A prompt is a pose bin, an expression and a background. `embed_prompt` gives it as four tokens of Wan's text width, each
read from a hash of its word: no text encoder, no random numbers, the same on every machine.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch

from ..errors import SlotIDError

POSES: dict[str, float] = {"far left": -48.0, "left": -24.0, "front": 0.0, "right": 24.0, "far right": 48.0}
EXPRESSIONS: tuple[str, ...] = ("neutral", "smile", "surprise")
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.31, 0.30),
    "green": (0.33, 0.67, 0.36),
    "blue": (0.32, 0.43, 0.84),
    "light": (0.86, 0.86, 0.91),
    "dark": (0.17, 0.19, 0.23),
}
VOCABULARY: dict[str, tuple[str, ...]] = {
    "pose": tuple(POSES),
    "expression": EXPRESSIONS,
    "background": tuple(BACKGROUNDS),
}

TOKENS = 4
TEXT_WIDTH = 4096


@dataclass(frozen=True)
class Prompt:
    """One word of each kind. Yaw is the viewer's: "left" turns the face to the viewer's left."""

    pose: str
    expression: str
    background: str

    def __post_init__(self) -> None:
        for kind, words in VOCABULARY.items():
            word = getattr(self, kind)
            if word not in words:
                raise SlotIDError(
                    f"{kind} {word!r}", f"one of {', '.join(words)}", "use a word that the demo world knows"
                )

    def __str__(self) -> str:
        return f"{self.pose}, {self.expression}, {self.background} background"


def embed_prompt(pose: str, expression: str, background: str) -> torch.Tensor:
    """Tokens [4, 4096] float32 of unit variance: scene, pose, expression, background.

    Raises SlotIDError for a word outside `VOCABULARY`.
    """
    prompt = Prompt(pose, expression, background)
    words = ["scene", f"pose {prompt.pose}", f"expression {prompt.expression}", f"background {prompt.background}"]
    return torch.stack([_word_vector(word) for word in words])


def embed_empty() -> torch.Tensor:
    """Tokens [4, 4096] of the empty prompt, as long as any other, so that hosts can batch both."""
    return torch.stack([_word_vector(f"empty {index}") for index in range(TOKENS)])


def _word_vector(word: str) -> torch.Tensor:
    digest = hashlib.shake_256(f"slot-id demo world: {word}".encode()).digest(TEXT_WIDTH)
    uniform = torch.frombuffer(bytearray(digest), dtype=torch.uint8).double()
    # Bytes 0..255 are uniform with this standard deviation; dividing by it gives unit variance.
    return ((uniform - 127.5) / math.sqrt((256**2 - 1) / 12)).float()
