"""Guidance by the text and by the identity, each with its own scale.

With the model's answers to the negative prompt, to the prompt alone and to the prompt with the identity,

    v = v_neg + cfg (v_text - v_neg) + cfg identity_cfg (v_id - v_text)
      = v_neg + cfg (v_text + identity_cfg (v_id - v_text) - v_neg),

classifier-free guidance (Ho and Salimans, arXiv 2207.12598) by two conditions, one given the other, as InstructPix2Pix
has it (Brooks et al., arXiv 2211.09800, section 3.2.1; a product of conditions as in Liu et al., arXiv 2206.01714): the
samples follow p(x) p(text | x)^cfg p(identity | x, text)^(cfg identity_cfg). The identity's scale counts in units of
the text's, so that identity_cfg = 1 is plain guidance by both together, whatever cfg is, and 0 is without the identity.
"""

from __future__ import annotations

import math

from torch import Tensor

from .errors import SlotIDError

IDENTITY, TEXT, NEGATIVE = "identity", "text", "negative"


def answers(cfg: float, identity_cfg: float) -> tuple[str, ...]:
    """The model's answers that count, of IDENTITY, TEXT and NEGATIVE: three at most, one at the least.

    Raises:
        SlotIDError: a scale that is not finite.
    """
    for name, scale in (("cfg", cfg), ("identity_cfg", identity_cfg)):
        if not math.isfinite(scale):
            raise SlotIDError(f"{name} = {scale}", "a finite number", f"change {name}.")
    wanted = {IDENTITY: identity_cfg != 0, TEXT: identity_cfg != 1, NEGATIVE: cfg != 1}
    return tuple(name for name, counts in wanted.items() if counts)


def towards_identity(with_identity: Tensor, without: Tensor, identity_cfg: float) -> Tensor:
    """The answer to the prompt, guided by the identity: what plain guidance by the text goes on from."""
    return without + identity_cfg * (with_identity - without)
