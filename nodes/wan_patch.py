"""Puts an identity into the host's Wan model, through the model patcher's public calls only.

The one place that touches the host's model. A DIFFUSION_MODEL wrapper installs, for one call of the model, a
replacement of each conditioned block that runs the block (or whatever another pack put in its place) and adds the
residual. Nothing stays on the model, and nothing is written into the caller's dictionaries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.ldm.wan.model as wan
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..slotid_core.conditioning import IdentityConditioning, PreparedIdentity, apply_residual
from ..slotid_core.errors import SlotIDError

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..slotid_core.identity import Identity
    from .host_model import HostModel

Residual = Callable[[torch.Tensor, slice], torch.Tensor]

KEY = "slotid"
POSITIVE = 0  # in `cond_or_uncond`, as KSampler and CFGGuider count
ROUNDING = 1e-6
WHOLE_RUN = (math.inf, -math.inf)  # sigmas of a start at 0 and an end at 1
STEPS_OF_TIME = 1000.0  # the host hands the model sigma * 1000

# Other members of the family order their tokens otherwise (reference or pose tokens before or after the video's).
_PREFIXED = (wan.WanModel, wan.VaceWanModel, wan.CameraWanModel)


def apply_identity(
    model: ModelPatcher, slotid: HostModel, identity: Identity, strength: float, start: float, end: float
) -> ModelPatcher:
    """The model with an identity in it, or the model itself at strength 0.

    Args:
        strength: factor of the residual; 0 changes nothing at all.
        start, end: part of the sampling in which the identity acts, as fractions in [0, 1].
    Raises:
        SlotIDError: the model is no Wan model, of another width or depth, or the identity is another model's.
    """
    if strength == 0:
        return model
    check_backbone(model, slotid)
    identity.check_model(slotid.model)
    if start >= end:
        raise SlotIDError(
            f"start_percent is {start:g} and end_percent is {end:g}",
            "a start before the end",
            "lower start_percent or raise end_percent; to switch the identity off, set strength to 0.",
        )
    patch = IdentityPatch(slotid.conditioning, identity.tokens, strength, start, end)
    patched = model.clone()
    patch.begin(patched)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, patch.sample)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, patch)
    patched.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, patch.begin)
    patched.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, patch.finish)
    patched.set_additional_models(KEY, [*patched.get_additional_models_with_key(KEY), slotid.conditioning])
    return patched


def check_backbone(model: ModelPatcher, slotid: HostModel) -> None:
    """Refuse, by name, a model that these weights were not made for."""
    found = model.model.diffusion_model
    if type(found) not in _PREFIXED:
        raise SlotIDError(
            f"The model is a {type(model.model).__name__} ({type(found).__name__})",
            f"a Wan 2.1 or 2.2 text-to-video, image-to-video, VACE or camera model ({slotid.model.config.backbone})",
            f"load the diffusion model that {slotid.model.name} was made for.",
        )
    slotid.model.check_backbone(found.dim, len(found.blocks), found.out_dim)


class IdentityPatch:
    """One identity's residuals, as a wrapper around the host's diffusion model."""

    def __init__(self, adapter: ModelPatcher, tokens: torch.Tensor, strength: float, start: float, end: float) -> None:
        self.adapter = adapter
        self.tokens = tokens
        self.strength = strength
        self.percents = (start, end)
        self.sigmas = WHOLE_RUN
        self.prepared: dict[tuple[torch.device, torch.dtype], PreparedIdentity] = {}
        self.names: dict[Any, str] = {}

    def __deepcopy__(self, memo: dict) -> IdentityPatch:
        # 0.3.64 deep-copies model options on every clone; a copy would duplicate the adapter's weights.
        return self

    def begin(self, patcher: ModelPatcher) -> None:
        """Read the sigma range, at each run: a sampling node later in the graph may have replaced the schedule."""
        to_sigma = patcher.get_model_object("model_sampling").percent_to_sigma
        start, end = self.percents
        # The first sigma may exceed percent_to_sigma(0) by rounding, which would lose the first step.
        first = math.inf if start <= 0 else float(to_sigma(start))
        self.sigmas = (first, -math.inf if end >= 1 else float(to_sigma(end)))
        self.prepared = {}

    def finish(self, patcher: ModelPatcher) -> None:
        self.prepared = {}

    def sample(self, executor: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Note the name of each conditioning, by its uuid: guiders number their conditionings in different orders."""
        guided = getattr(executor.class_obj, "conds", {})
        self.names = {cond["uuid"]: name for name, conds in guided.items() for cond in conds}
        try:
            return executor(*args, **kwargs)
        finally:
            self.names = {}

    def __call__(
        self,
        executor: Callable,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        clip_fea: torch.Tensor | None = None,
        time_dim_concat: torch.Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """x [B, C, T, H, W] is the batch of all conditioning chunks, chunk j in rows [j B', (j+1) B')."""
        options = transformer_options or {}
        rows = positive_rows(x.shape[0], options, self.names)
        if rows and self._active(options):
            tokens = video_tokens(executor.class_obj, x, kwargs.get("reference_latent"))
            options = self._with_residuals(options, self._residuals(x, timestep), rows, tokens)
        return executor(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)

    def _active(self, options: dict[str, Any]) -> bool:
        sigmas = options.get("sigmas")
        # Reading a sigma waits for the device, so it is read only where there is something to decide.
        if sigmas is None or self.sigmas == WHOLE_RUN:
            return True
        # A step that falls on a boundary belongs to what starts there, whatever its last digit.
        return self.sigmas[1] < float(sigmas[0]) - ROUNDING <= self.sigmas[0]

    def _residuals(self, x: torch.Tensor, timestep: torch.Tensor) -> dict[int, Residual]:
        """The residual of each conditioned block, for one call of the model."""
        adapter: IdentityConditioning = self.adapter.model
        # Once per run: keys and values depend neither on the step nor on x. Several devices may share the run.
        place = (x.device, x.dtype)
        if place not in self.prepared:
            self.prepared[place] = adapter.prepare(self.tokens.to(x))
        prepared = self.prepared[place]

        def residual(index: int, gate: torch.Tensor) -> Residual:
            return lambda hidden, rows: adapter.residual(index, hidden, prepared, gate[rows])

        return {index: residual(index, gate) for index, gate in adapter.gate(flow_time(timestep), x.dtype).items()}

    def _with_residuals(
        self, options: dict[str, Any], residuals: dict[int, Residual], rows: list[slice], tokens: slice
    ) -> dict[str, Any]:
        """A copy of the caller's options in which the conditioned blocks add their residual."""

        def block(residual: Residual, earlier: Callable | None) -> Callable:
            def run(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
                # Another pack, or another identity, may already have replaced this block.
                out = earlier(args, extra) if earlier is not None else extra["original_block"](args)
                # What another patch returns it may also keep; what the block returns is new.
                owned = earlier is None and out["img"] is not args["img"]
                hidden = apply_residual(
                    out["img"], residual, rows=rows, tokens=tokens, strength=self.strength, owned=owned
                )
                return {**out, "img": hidden}

            return run

        replace = options.get("patches_replace", {})
        blocks = dict(replace.get("dit", {}))
        for index, residual in residuals.items():
            name = ("double_block", index)
            blocks[name] = block(residual, blocks.get(name))
        return {**options, "patches_replace": {**replace, "dit": blocks}}


def positive_rows(batch: int, options: dict[str, Any], names: dict[Any, str]) -> list[slice]:
    """Rows of the positive conditioning in a batch of equal chunks, one for each conditioning.

    Args:
        batch: rows of all chunks together.
        options: the host's transformer options, with `uuids` and `cond_or_uncond` of the chunks.
        names: name by uuid; a conditioning without one counts by its number.
    """
    kinds = options.get("cond_or_uncond", [POSITIVE])
    uuids = options.get("uuids", [None] * len(kinds))
    size = batch // len(kinds)
    return [
        slice(j * size, (j + 1) * size)
        for j, (uuid, kind) in enumerate(zip(uuids, kinds, strict=True))
        if names.get(uuid, "positive" if kind == POSITIVE else "") == "positive"
    ]


def video_tokens(model: wan.WanModel, x: torch.Tensor, reference: torch.Tensor | None) -> slice:
    """Place of the generated video's tokens in the sequence: after a reference image's, before anything appended."""
    patch = model.patch_size
    count = math.prod(math.ceil(side / step) for side, step in zip(x.shape[2:], patch, strict=True))
    before = 0
    if reference is not None and getattr(model, "ref_conv", None) is not None:
        before = (reference.shape[-2] // patch[1]) * (reference.shape[-1] // patch[2])
    return slice(before, before + count)


def flow_time(timestep: torch.Tensor) -> torch.Tensor:
    """Flow time [B] in [0, 1]; where frames have times of their own ([B, T]), that of the noisiest."""
    return timestep.float().reshape(timestep.shape[0], -1).amax(dim=1) / STEPS_OF_TIME
