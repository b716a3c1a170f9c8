"""The identity conditioning on diffusers' WanTransformer3DModel, through hooks that leave with the `with` block."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..conditioning import IdentityConditioning, PreparedIdentity, apply_residual
from ..errors import SlotIDError
from ..guidance import NEGATIVE, TEXT
from ..influence import ROUNDING, Influence
from ..masks import checked_mask, latent_mask, token_weights
from .wan import CALLS, TIME_SCALE

if TYPE_CHECKING:
    from ..identity import Identity
    from ..model import SlotID

COMFY_SHIFT = 8.0
UNTOUCHED = (CALLS[TEXT], CALLS[NEGATIVE])


@contextmanager
def condition_transformer(
    slotid: SlotID,
    transformer: Any,
    identity: Identity,
    *,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    shift: float = COMFY_SHIFT,
    mask: Tensor | None = None,
    **more: float,
) -> Iterator[None]:
    """Condition a diffusers WanTransformer3DModel on an identity inside a `with` block; afterwards it is as it was.

    Unconditional calls stay untouched: those inside `transformer.cache_context("uncond")`, as WanPipeline makes them,
    and those inside `cache_context("without identity")`. A call outside of any such context counts as conditional.
    Several identities: nest the blocks, each with its mask; residuals add. For a pipeline with two transformers
    (Wan 2.2 14B), condition each.

    The Slot-ID model may be on another device or in another precision than the transformer: a copy of its conditioning
    then runs beside the transformer. Where both agree its own weights are used, so gradients reach them.

    Args:
        transformer: the frozen backbone, not compiled.
        identity: made by this Slot-ID model.
        strength: factor of the residual; 0 changes nothing.
        start, end: the part of the sampling in which the identity acts, as ComfyUI counts it: a fraction p is the flow
            time shift (1 - p) / (1 + (shift - 1) (1 - p)), whatever the number of steps. A step at start is in, one at
            end is out.
        shift: the sampler's shift of the flow time, used for start and end alone: 8 is ComfyUI's for Wan; for a
            WanPipeline give `pipe.scheduler.config.flow_shift`.
        mask: where the person is, [H, W] or [n, H, W] in [0, 1] over the whole video: one frame, or one for each frame
            of the video. None is everywhere.
        more: first_block, last_block, appearance, dynamics of `Influence`.

    Raises:
        SlotIDError: a transformer of another kind or size, an identity of another Slot-ID model, a setting out of
            range, and, from the transformer's call, a cache that skips blocks.
    """
    influence = Influence(strength, start, end, **more)
    identity.check_model(slotid)
    check_transformer(slotid, transformer)
    noisiest, cleanest = flow_range(start, end, shift)
    mask = None if mask is None else checked_mask(mask)
    blocks = influence.blocks(slotid.conditioning.blocks_used, len(transformer.blocks))
    if influence.nothing() or not blocks or (mask is not None and not mask.any()):
        yield
        return
    run = _Run(slotid.conditioning, identity.tokens, influence, blocks, (noisiest, cleanest), mask)
    with ExitStack() as undo:
        undo.enter_context(_named_calls(transformer, run))
        handles = [
            transformer.register_forward_pre_hook(run.begin, with_kwargs=True),
            transformer.register_forward_hook(run.finish),
            *(transformer.blocks[i].register_forward_hook(run.hook(i)) for i in blocks),
        ]
        for handle in handles:
            undo.callback(handle.remove)
        yield


def flow_range(start: float, end: float, shift: float) -> tuple[float, float]:
    """Fractions of the sampling to flow times (noisiest, cleanest), as ComfyUI's percent_to_sigma; infinite at 0 and 1.

    Raises:
        SlotIDError: fractions outside 0 <= start < end <= 1, a shift that is not above 0.
    """
    if not 0 <= start < end <= 1:
        raise SlotIDError(f"start = {start}, end = {end}", "0 <= start < end <= 1", "change start or end.")
    if not 0 < shift < math.inf:
        raise SlotIDError(f"shift = {shift}", "a shift above 0", "give the sampler's own shift (3, 5 or 8 for Wan).")
    first, last = (shift * (1 - p) / (1 + (shift - 1) * (1 - p)) for p in (start, end))
    return (first if start > 0 else math.inf), (last if end < 1 else -math.inf)


def check_transformer(slotid: SlotID, transformer: Any) -> None:
    """Hold a transformer against the backbone that the Slot-ID model was made for.

    Raises:
        SlotIDError: not a WanTransformer3DModel, another width, depth or number of latent channels, or compiled.
    """
    from . import require_diffusers

    require_diffusers()
    from diffusers import WanTransformer3DModel

    compiled = hasattr(transformer, "_orig_mod") or any(
        block._compiled_call_impl is not None for block in getattr(transformer, "blocks", ())
    )
    if compiled:
        # torch.compile does not notice hooks that come or go later: the identity would be missing, or stay for ever.
        raise SlotIDError(
            "a transformer compiled by torch.compile",
            "one that is not compiled",
            "condition the transformer itself, without torch.compile or compile_repeated_blocks.",
        )
    if not isinstance(transformer, WanTransformer3DModel):
        raise SlotIDError(
            f"a {type(transformer).__name__}",
            "a diffusers WanTransformer3DModel",
            "pass pipe.transformer of a WanPipeline.",
        )
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    slotid.check_backbone(width, config.num_layers, config.out_channels)


class _Run:
    """One `with` block: what is being called, and the identity's keys and values, made once where the blocks run."""

    def __init__(
        self,
        conditioning: IdentityConditioning,
        tokens: Tensor,
        influence: Influence,
        blocks: tuple[int, ...],
        times: tuple[float, float],
        mask: Tensor | None,
    ) -> None:
        self.conditioning, self.tokens, self.influence, self.blocks = conditioning, tokens, influence, blocks
        self.noisiest, self.cleanest = times
        self.mask = mask
        self.call_name: str | None = None
        self.rows: list[slice] = []
        self.weights: list[Tensor] | None = None
        self.added = 0
        self._time = torch.ones(1)
        self._gate: dict[int, Tensor] = {}
        self._masks: dict[torch.Size, Tensor] = {}
        self._ready: dict[tuple[torch.device, torch.dtype], tuple[IdentityConditioning, PreparedIdentity]] = {}

    def begin(self, transformer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before a call of the transformer: which of its rows carry the identity, and at which flow time they are."""
        if transformer.is_cache_enabled:
            raise SlotIDError(
                f"a transformer with {type(transformer._cache_config).__name__} enabled",
                "no cache: one that skips blocks would add the identity twice",
                "call transformer.disable_cache() before conditioning it.",
            )
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        # Wan 2.2 5B gives each token its own timestep: 0 for a given first frame, the video's own is the largest.
        times = (timestep.float() / TIME_SCALE).reshape(timestep.shape[0], -1).amax(1)
        # Schedulers that cut timesteps to whole numbers (UniPC) make them lower, which does no harm.
        active = (times - ROUNDING <= self.noisiest) & (times - ROUNDING > self.cleanest)
        self._time, self._gate, self.added = times, {}, 0
        carried = self.call_name not in UNTOUCHED
        self.rows = [slice(i, i + 1) for i in active.nonzero().flatten().tolist()] if carried else []
        if len(self.rows) == len(times):
            self.rows = [slice(None)]
        if self.mask is not None and self.rows:
            latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            self.weights = [self._token_weights(latents.shape[2:], transformer.config.patch_size)] * len(self.rows)

    def hook(self, block: int) -> Any:
        """The forward hook of one block: adds the residual to its output."""

        def add(module: nn.Module, args: tuple, x: Tensor) -> Tensor | None:
            if not self.rows:
                return None
            self.added += 1
            conditioning, prepared = self._beside(x)
            if not self._gate:
                self._gate = conditioning.gate(self._time.to(x.device), x.dtype)

            def residual(part: Tensor, rows: slice) -> Tensor:
                gate = self._gate[block].to(x.device)
                return conditioning.residual(block, part, prepared, gate[rows])

            strength, weights = self.influence.strength, self.weights
            if weights is not None:
                weights = [row.to(x) for row in weights]
            return apply_residual(x, residual, rows=self.rows, tokens=slice(None), strength=strength, weights=weights)

        return add

    def finish(self, transformer: nn.Module, args: tuple, output: Any) -> None:
        """After a call of the transformer: an identity that was silently left out is an error."""
        expected = len(self.blocks) if self.rows else 0
        if self.added != expected:
            raise SlotIDError(
                f"{self.added} of {expected} blocks of the transformer ran with the identity",
                "every conditioned block to run once",
                "remove what skips or compiles blocks, and condition the transformer again.",
            )

    def _token_weights(self, shape: torch.Size, patch: Sequence[int]) -> Tensor:
        if shape not in self._masks:
            self._masks[shape] = token_weights(latent_mask(self.mask, shape), patch)
        return self._masks[shape]

    def _beside(self, x: Tensor) -> tuple[IdentityConditioning, PreparedIdentity]:
        key = (x.device, x.dtype)
        if key not in self._ready:
            weight = self.conditioning.gates.out.weight
            same = (weight.device, weight.dtype) == key
            conditioning = self.conditioning if same else copy.deepcopy(self.conditioning).to(*key)
            self._ready[key] = conditioning, self.influence.weighed(conditioning.prepare(self.tokens.to(*key)))
        return self._ready[key]


@contextmanager
def _named_calls(transformer: Any, run: _Run) -> Iterator[None]:
    """Let the run know inside which `cache_context` a call is made.

    A pipeline says "cond" or "uncond" there and nowhere else. A diffusers ModelHook would hear it too, but replaces
    `transformer.forward`, which CPU offloading puts back after every run of a pipeline.
    """
    own = vars(transformer).get("cache_context")
    original = transformer.cache_context

    def cache_context(name: str, **kwargs: Any) -> AbstractContextManager[None]:
        return _named(run, name, original(name, **kwargs))

    transformer.cache_context = cache_context
    try:
        yield
    finally:
        if own is None:
            del transformer.cache_context
        else:
            transformer.cache_context = own


@contextmanager
def _named(run: _Run, name: str, context: AbstractContextManager[None]) -> Iterator[None]:
    before, run.call_name = run.call_name, name
    try:
        with context:
            yield
    finally:
        run.call_name = before
