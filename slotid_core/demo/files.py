"""Where the packaged demo files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).resolve().parent / "assets"


@dataclass(frozen=True)
class DemoFiles:
    """Paths of the demo weights, and of the sample reference clips in alphabetical order."""

    diffusion_model: Path
    vae: Path
    slot_id: Path
    clips: tuple[Path, ...]

    def weights(self) -> tuple[Path, Path, Path]:
        return self.diffusion_model, self.vae, self.slot_id


def demo_files() -> DemoFiles:
    """The files shipped in `slotid_core/demo/assets`, each folder named as ComfyUI names the kind of model."""
    return DemoFiles(
        diffusion_model=ASSETS / "diffusion_models" / "slotid_demo_wan2.1_dit.safetensors",
        vae=ASSETS / "vae" / "slotid_demo_wan_vae.safetensors",
        slot_id=ASSETS / "slot_id" / "slotid_demo.safetensors",
        clips=tuple(sorted((ASSETS / "clips").glob("*.mp4"))),
    )
