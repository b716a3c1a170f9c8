"""A Slot-ID model under the host's memory manager."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import comfy.model_management as memory
import comfy.model_patcher
import comfy.ops

from ..slotid_core.conditioning import IdentityConditioning
from ..slotid_core.model import SlotID
from .host import video_encoder, watched

if TYPE_CHECKING:
    import torch
    from comfy.sd import VAE

    from ..slotid_core.faces import Faces
    from ..slotid_core.identity import Identity
    from ..slotid_core.slots import RoutingTrace


class HostModel:
    """What a SLOTID_MODEL socket carries.

    Attributes:
        model: the core's model; its conditioning is made of the host's layers, which cast their weights as they run.
        encoder, conditioning: the model patchers through which the host loads and frees the weights.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.model = SlotID.load(path)
        self.conditioning = _managed_conditioning(self.model, path)
        # Read from once per clip, and of plain layers: it is moved whole, so it takes the plain patcher.
        self.encoder = comfy.model_patcher.ModelPatcher(
            self.model.encoder, load_device=memory.get_torch_device(), offload_device=memory.unet_offload_device()
        )

    def encode(self, faces: Faces, vae: VAE, consent: str) -> tuple[Identity, RoutingTrace]:
        """Read an identity, each model on the compute device when its turn comes.

        Raises:
            SlotIDError: a VAE of another kind than the backbone's.
        """
        encode_video = video_encoder(vae, self.model.config.backbone.latent_channels)

        def encode_then_load(frames: torch.Tensor) -> torch.Tensor:
            # Loading the VAE may have put the encoder out.
            latents = encode_video(frames)
            memory.load_models_gpu([self.encoder])
            return latents

        with watched(getattr(vae.first_stage_model, "encoder", None), faces.crops.shape[0]):
            return self.model.encode_with_routing(faces, encode_then_load, consent=consent)


def _managed_conditioning(
    model: SlotID, path: str | os.PathLike, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """Swap the model's conditioning for one of the host's layers, and hand out its patcher."""
    config, offload = model.config, memory.unet_offload_device()
    managed = IdentityConditioning(
        config.conditioning, config.backbone, config.identity_width, comfy.ops.manual_cast, device=offload
    )
    # Looked up at call time: 0.33 replaces it when it starts its dynamic memory manager; 0.3.64 has none.
    core_patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    make = comfy.model_patcher.ModelPatcher if disable_dynamic else core_patcher
    patcher = make(managed, load_device=memory.get_torch_device(), offload_device=offload)
    managed.load_state_dict(
        model.conditioning.state_dict(), assign=patcher.is_dynamic() if hasattr(patcher, "is_dynamic") else False
    )
    model.conditioning = managed.eval().requires_grad_(False)
    # 0.33 rebuilds a patcher from this for a second GPU.
    patcher.cached_patcher_init = (_conditioning_again, (path,))
    return patcher


def _conditioning_again(path: str | os.PathLike, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return _managed_conditioning(SlotID.load(path), path, disable_dynamic)
