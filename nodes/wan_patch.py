"""Puts an identity into the host's Wan model, through the model patcher's public calls only.

The one place that touches the host's model. A DIFFUSION_MODEL wrapper installs, for one call of the model, a
replacement of each conditioned block that runs the block (or whatever another pack put in its place) and adds the
residual. Nothing stays on the model, and nothing is written into the caller's dictionaries.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.ldm.wan.model as wan
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..slotid_core.conditioning import IdentityConditioning, PreparedIdentity, apply_residual
from ..slotid_core.errors import SlotIDError
from ..slotid_core.influence import ROUNDING, Influence, Person
from ..slotid_core.masks import latent_mask, token_weights, within

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..slotid_core.identity import Identity
    from .host_model import HostModel

Residual = Callable[[torch.Tensor, slice], torch.Tensor]

KEY = "slotid"
POSITIVE = 0  # in `cond_or_uncond`, as KSampler and CFGGuider count
WHOLE_RUN = (math.inf, -math.inf)  # sigmas of a start at 0 and an end at 1
STEPS_OF_TIME = 1000.0  # the host hands the model sigma * 1000

# Other members of the family order their tokens otherwise (reference or pose tokens before or after the video's).
_PREFIXED = (wan.WanModel, wan.VaceWanModel, wan.CameraWanModel)


class Places(NamedTuple):
    """Where the residuals of one call go, in the words of `apply_residual`."""

    rows: list[slice]
    tokens: slice
    weights: list[torch.Tensor] | None


def apply_identity(
    model: ModelPatcher,
    slotid: HostModel,
    identity: Identity,
    influence: Influence,
    mask: torch.Tensor | None = None,
) -> tuple[ModelPatcher, str]:
    """The model with an identity in it and "", or the model itself and why nothing would change.

    Args:
        influence: how hard, when and in which blocks.
        mask: where in the picture, [n, H, W] in [0, 1]; None is everywhere.
    Raises:
        SlotIDError: the model is no Wan model, of another width or depth, or the identity is another model's.
    """
    if why := influence.nothing():
        return model, why
    check_backbone(model, slotid)
    identity.check_model(slotid.model)
    blocks = influence.blocks(slotid.conditioning.model.blocks_used, depth_of(model))
    person = Person(identity.source or "frames without a file", influence, blocks, mask)
    if why := nothing(slotid.conditioning.model, person):
        return model, why
    patch = IdentityPatch(slotid.conditioning, identity.tokens, person)
    patched = model.clone()
    patch.begin(patched)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, patch.sample)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, patch.conditionings)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, patch)
    patched.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, patch.begin)
    patched.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, patch.finish)
    patched.set_additional_models(KEY, [*patched.get_additional_models_with_key(KEY), slotid.conditioning])
    return patched, ""


def nothing(adapter: IdentityConditioning, person: Person) -> str:
    """Why a person would change nothing through this adapter; "" where they do."""
    if not person.blocks:
        carrying = ", ".join(map(str, adapter.blocks_used))
        return f"none of the blocks that can carry an identity ({carrying}) lies in the range"
    if person.mask is not None and not person.mask.any():
        return "the mask is empty"
    trained = any(bool(block.out.weight.any()) for block in adapter.blocks.values())
    return "" if trained else "this Slot-ID model was never trained"


def patches_in(model: ModelPatcher) -> list[IdentityPatch]:
    """The identities in a model, in the order of their Apply nodes."""
    return model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY)


def acting(model: ModelPatcher, sigmas: torch.Tensor) -> bool:
    """Whether any identity in a model acts in the step at these sigmas [B]."""
    return any(patch.acts(sigmas) for patch in patches_in(model))


def depth_of(model: ModelPatcher) -> int:
    """Number of blocks of a model that passed `check_backbone`."""
    return len(model.model.diffusion_model.blocks)


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

    def __init__(self, adapter: ModelPatcher, tokens: torch.Tensor, person: Person) -> None:
        self.adapter = adapter
        self.tokens = tokens
        self.person = person
        self.sigmas = WHOLE_RUN
        self.finish()

    def __deepcopy__(self, memo: dict) -> IdentityPatch:
        # 0.3.64 deep-copies model options on every clone; a copy would duplicate the adapter's weights.
        return self

    def begin(self, patcher: ModelPatcher) -> None:
        """Read the sigma range, at each run: a sampling node later in the graph may have replaced the schedule."""
        to_sigma = patcher.get_model_object("model_sampling").percent_to_sigma
        start, end = self.person.influence.start, self.person.influence.end
        # The first sigma may exceed percent_to_sigma(0) by rounding, which would lose the first step.
        first = math.inf if start <= 0 else float(to_sigma(start))
        self.sigmas = (first, -math.inf if end >= 1 else float(to_sigma(end)))
        self.prepared, self.masks = {}, {}
        if self.schedule is not None and self.sigmas != WHOLE_RUN:
            count = sum(self._in_range(float(sigma)) for sigma in self.schedule)
            tell = logging.info if count else logging.warning
            tell("Slot-ID: %s acts in %d of this sampler's %d steps.", self.person.name, count, len(self.schedule))

    def finish(self, patcher: ModelPatcher | None = None) -> None:
        self.prepared: dict[tuple[torch.device, torch.dtype], PreparedIdentity] = {}
        self.masks: dict[tuple[torch.Size, torch.device], torch.Tensor] = {}
        self.names: dict[Any, str] = {}
        self.kinds: list[str | None] = []
        self.areas: dict[Any, Sequence[int]] = {}
        self.size: torch.Size | None = None
        self.schedule: torch.Tensor | None = None

    def sample(self, executor: Callable, noise: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Note the size of the whole video, and the name of each conditioning by its uuid.

        Guiders number their conditionings in different orders.
        """
        guided = getattr(executor.class_obj, "conds", {})
        self.names = {cond["uuid"]: name for name, conds in guided.items() for cond in conds}
        self.size = noise.shape[2:]
        # (latent_image, sampler, sigmas, ...); the last sigma is where the last step ends.
        self.schedule = args[2][:-1] if len(args) > 2 else None
        try:
            return executor(noise, *args, **kwargs)
        finally:
            self.finish()

    def conditionings(self, executor: Callable, model: Any, conds: list, *args: Any, **kwargs: Any) -> list:
        """Note what the conditionings of one step are called, by their number, and the parts of the picture they see.

        A list is named by its first entry: to the others the host may add copies of another list's, uuid and all.
        """
        self.kinds = [self.names.get(entries[0].get("uuid")) if entries else None for entries in conds]
        listed = [entry for entries in conds if entries for entry in entries]
        self.areas = {entry.get("uuid"): entry["area"] for entry in listed if entry.get("area") is not None}
        return executor(model, conds, *args, **kwargs)

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
        chunks = positive_chunks(options, self.kinds)
        if chunks and self.acts(options.get("sigmas")):
            size = x.shape[0] // len(options.get("cond_or_uncond", [POSITIVE]))
            places = Places(
                rows=[slice(j * size, (j + 1) * size) for j in chunks],
                tokens=video_tokens(executor.class_obj, x, kwargs.get("reference_latent")),
                weights=self._weights(x, options, chunks, executor.class_obj.patch_size),
            )
            options = self._with_residuals(options, self._residuals(x, timestep), places)
        return executor(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)

    def acts(self, sigmas: torch.Tensor | None) -> bool:
        """Whether the step at these sigmas [B] lies in the range."""
        # Reading a sigma waits for the device, so it is read only where there is something to decide.
        return sigmas is None or self.sigmas == WHOLE_RUN or self._in_range(float(sigmas[0]))

    def _in_range(self, sigma: float) -> bool:
        # A step that falls on a boundary belongs to what starts there, whatever its last digit.
        return self.sigmas[1] < sigma - ROUNDING <= self.sigmas[0]

    def _residuals(self, x: torch.Tensor, timestep: torch.Tensor) -> dict[int, Residual]:
        """The residual of each conditioned block, for one call of the model."""
        adapter: IdentityConditioning = self.adapter.model
        # Once per run: keys and values depend neither on the step nor on x. Several devices may share the run.
        place = (x.device, x.dtype)
        if place not in self.prepared:
            self.prepared[place] = self.person.influence.weighed(adapter.prepare(self.tokens.to(x)))
        prepared, gates = self.prepared[place], adapter.gate(flow_time(timestep), x.dtype)

        def residual(index: int) -> Residual:
            return lambda hidden, rows: adapter.residual(index, hidden, prepared, gates[index][rows])

        return {index: residual(index) for index in self.person.blocks}

    def _weights(
        self, x: torch.Tensor, options: dict[str, Any], chunks: list[int], patch: Sequence[int]
    ) -> list[torch.Tensor] | None:
        """Weights of the video's tokens under the mask, for each chunk: of the frames and the area that it sees."""
        if self.person.mask is None:
            return None
        size = self.size or x.shape[2:]
        if (size, x.device) not in self.masks:
            self.masks[size, x.device] = latent_mask(self.person.mask, size).to(x.device)
        mask = self.masks[size, x.device]
        if window := options.get("context_window"):
            # The window cuts the mask as it cut the latents, with whatever frame it puts before its own.
            mask = window.get_tensor(mask[None, None], dim=window.dim)[0, 0]
        uuids = options.get("uuids", [None] * (max(chunks) + 1))
        seen = [within(mask, self.areas.get(uuids[j], ())) for j in chunks]
        if any(part.shape != x.shape[2:] for part in seen):
            raise SlotIDError(
                f"A part of the video of {list(x.shape[2:])} latents, of which the mask shows {list(seen[0].shape)}",
                "the whole video, a context window or an area of ComfyUI's own",
                "take the mask off Slot-ID Apply, or what samples the video in parts.",
            )
        return [token_weights(part, patch).to(x.dtype) for part in seen]

    def _with_residuals(
        self, options: dict[str, Any], residuals: dict[int, Residual], places: Places
    ) -> dict[str, Any]:
        """A copy of the caller's options in which the conditioned blocks add their residual."""

        def block(residual: Residual, earlier: Callable | None) -> Callable:
            def run(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
                # Another pack, or another identity, may already have replaced this block.
                out = earlier(args, extra) if earlier is not None else extra["original_block"](args)
                # What another patch returns it may also keep; what the block returns is new.
                owned = earlier is None and out["img"] is not args["img"]
                strength = self.person.influence.strength
                hidden = apply_residual(out["img"], residual, strength=strength, owned=owned, **places._asdict())
                return {**out, "img": hidden}

            return run

        replace = options.get("patches_replace", {})
        blocks = dict(replace.get("dit", {}))
        for index, residual in residuals.items():
            name = ("double_block", index)
            blocks[name] = block(residual, blocks.get(name))
        return {**options, "patches_replace": {**replace, "dit": blocks}}


def positive_chunks(options: dict[str, Any], kinds: Sequence[str | None]) -> list[int]:
    """Places of the positive conditioning's chunks in a batch of equal chunks.

    Args:
        options: the host's transformer options, with `cond_or_uncond`: the number of each chunk's conditioning.
        kinds: names of the conditionings by number; one without a name counts by its number.
    """

    def positive(number: int) -> bool:
        name = kinds[number] if number < len(kinds) else None
        return number == POSITIVE if name is None else name == "positive"

    return [j for j, number in enumerate(options.get("cond_or_uncond", [POSITIVE])) if positive(number)]


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
