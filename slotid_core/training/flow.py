"""Flow matching on a Wan transformer, and the identity of each row of a batch added to it.

With clean latents z and noise n, the noisy latents at flow time t are (1 - t) z + t n, and the transformer is asked for
the velocity n - z (rectified flow: Liu et al., arXiv 2209.03003; the logit-normal t is Esser et al., arXiv 2403.03206).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..pipelines.wan import TIME_SCALE

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from ..model import SlotID


def stream(*key: str | int) -> torch.Generator:
    """CPU generator seeded by a hash of the whole key, so that neighbouring numbers give unrelated streams."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def flow_time(normal: Tensor, shift: float) -> Tensor:
    """Flow times in (0, 1) from standard normal numbers: logit-normal, then shifted towards noise."""
    u = normal.sigmoid()
    return shift * u / (1 + (shift - 1) * u)


def draw_rows(
    seed: int, step: int, rows: Sequence[int], shape: Sequence[int], shift: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What chance gives each row of a step: a function of (seed, step, row) alone.

    Args:
        rows: numbers of the rows in the step's whole batch.
        shape: of one row's latents.

    Returns:
        Noise [B, *shape], flow time [B], and three numbers in [0, 1) for each row [B, 3], for choices and dropout.
    """
    noise, normal, chances = torch.empty(len(rows), *shape), torch.empty(len(rows)), torch.empty(len(rows), 3)
    for i, row in enumerate(rows):
        generator = stream("row", seed, step, row)
        torch.rand(3, generator=generator, out=chances[i])
        normal[i] = torch.randn((), generator=generator)
        torch.randn(tuple(shape), generator=generator, out=noise[i])
    return noise, flow_time(normal, shift), chances


def velocity_error(
    transformer: WanTransformer3DModel, clean: Tensor, noise: Tensor, time: Tensor, text: Tensor
) -> Tensor:
    """Squared error [B, C, F, h, w] of the predicted velocity.

    Args:
        clean, noise: [B, C, F, h, w].
        time: [B] in (0, 1).
        text: [B, L, text width].
    """
    t = time.view(-1, 1, 1, 1, 1)
    noisy = (1 - t) * clean + t * noise
    (made,) = transformer(
        hidden_states=noisy, timestep=time * TIME_SCALE, encoder_hidden_states=text, return_dict=False
    )
    return (made.float() - (noise - clean)).square()


@contextmanager
def conditioned(
    model: SlotID, transformer: WanTransformer3DModel, tokens: Tensor, keep: Tensor | None = None
) -> Iterator[None]:
    """Inside, each row of the transformer's batch carries its own identity; gradients reach tokens and conditioning.

    Args:
        tokens: [B, 2 S, D_id], as many rows as the transformer is called with.
        keep: [B], 1 where the identity counts and 0 where the row is to come out exactly as from the backbone alone.
    """
    conditioning = model.conditioning
    prepared = conditioning.prepare(tokens)
    numbers = {transformer.blocks[number]: number for number in conditioning.blocks_used}
    gates: dict[int, Tensor] = {}

    def begin(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        gates.update(conditioning.gate(kwargs["timestep"].float() / TIME_SCALE, tokens.dtype))
        if keep is not None:
            # The gate scales the read before W_o, which has no bias: a closed gate adds zeros.
            gates.update({block: gate * keep for block, gate in gates.items()})

    def add(block: nn.Module, args: tuple, x: Tensor) -> Tensor:
        number = numbers[block]
        return x + conditioning.residual(number, x, prepared, gates[number])

    def again(block: nn.Module, *args: Any) -> Tensor:
        """A block whose activations are made again on the way back, when hooks have long gone."""

        def run(*inputs: Any) -> Tensor:
            x = block(*inputs)
            return add(block, inputs, x) if block in numbers else x

        return checkpoint(run, *args, use_reentrant=False)

    with ExitStack() as undo:
        undo.callback(transformer.register_forward_pre_hook(begin, with_kwargs=True).remove)
        if transformer.gradient_checkpointing and torch.is_grad_enabled():
            transformer.enable_gradient_checkpointing(again)
            undo.callback(transformer.enable_gradient_checkpointing)
        else:
            for block in numbers:
                undo.callback(block.register_forward_hook(add).remove)
        yield
