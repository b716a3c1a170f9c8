"""Small adapters between the core and the host: its VAE, its progress bar and cancel button, its log."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import comfy.latent_formats
import comfy.model_management
import comfy.utils
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from ..slotid_core.errors import SlotIDError, SlotIDWarning

if TYPE_CHECKING:
    import numpy as np
    from comfy.sd import VAE
    from comfy_api.latest import io
    from comfy_api.latest._input import VideoInput

    from ..slotid_core.latents import EncodeVideo

_LATENT_FORMATS = {16: "Wan21", 48: "Wan22"}


def video_encoder(vae: VAE, channels: int) -> EncodeVideo:
    """The host's VAE as the core wants it: frames [T, H, W, 3] in [0, 1] to latents in the model's normalised space.

    Raises:
        SlotIDError: no VAE, or not the video VAE of this many channels.
    """
    found = getattr(vae, "latent_channels", None)
    if found != channels or vae.latent_dim != 3:
        kind = "empty" if vae is None else f"a VAE of {found} channels over {vae.latent_dim} dimensions"
        raise SlotIDError(
            f"The VAE input is {kind}",
            f"the Wan video VAE: {channels} channels over 3 dimensions",
            "load the VAE that belongs to the diffusion model (wan_2.1_vae.safetensors, or wan2.2_vae for Wan 2.2 5B).",
        )
    latent_format = getattr(comfy.latent_formats, _LATENT_FORMATS[channels])()
    return lambda frames: latent_format.process_in(vae.encode(frames))[0]


@contextmanager
def watched(network: torch.nn.Module | None, frames: int) -> Iterator[None]:
    """Let the user cancel between any two layers of whatever runs, and move the node's progress bar with a network's
    input: a video VAE's encoder gets its frames a few at a time, as [B, C, T, H, W]."""
    report, done = progress_bar(), 0

    def look(module: torch.nn.Module, inputs: tuple) -> None:
        nonlocal done
        stop_if_cancelled()
        if module is network:
            done += inputs[0].shape[2]
            report(min(done, frames), frames)

    report(0, frames)
    # For all modules: hooks on each of a host's model would be seen by whoever else holds it.
    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


def stop_if_cancelled() -> None:
    """End the node here, the host's way, if the user cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress_bar() -> Callable[[int, int], None]:
    """A callback (done, total) that moves the node's progress bar and stops when the user cancels."""
    bar = comfy.utils.ProgressBar(1)

    def report(done: int, total: int) -> None:
        stop_if_cancelled()
        bar.update_absolute(done, total)

    return report


@contextmanager
def noted_warnings() -> Iterator[list[str]]:
    """Collect the core's warnings, for the report that the artist sees; they go to the log too."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SlotIDWarning)
        yield notes
    for warning in caught:
        if issubclass(warning.category, SlotIDWarning):
            notes.append(str(warning.message))
            logging.warning("Slot-ID: %s", warning.message)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def as_image(picture: np.ndarray) -> torch.Tensor:
    """A uint8 picture [H, W, 3] as the host's IMAGE [1, H, W, 3] in [0, 1]."""
    return torch.tensor(picture).unsqueeze(0) / 255.0


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Show a text on the node on the page; the node asks for its hidden unique_id."""
    if node.hidden.unique_id:
        # Only a running server has it; the tests' stand-ins do not.
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)


def video_window(video: VideoInput, start: float, duration: float | None) -> tuple[str | BinaryIO, float, float | None]:
    """Source, start and duration of a part of a VIDEO, which may itself be trimmed to a part of its source."""
    trim = getattr(video, "get_active_trim_window", None)  # 0.3.64's videos are never trimmed
    first, span = trim() if trim else (0.0, 0.0)
    if span:
        duration = min(duration or span, max(span - start, 0.001))
    return video.get_stream_source(), first + start, duration
