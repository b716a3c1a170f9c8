"""Make the sample reference clips that ship: `python -m slotid_core.demo.samples`.

Two held-out people, drawn large enough to be pleasant to preview; a host scales them down to what its VAE takes.
"""

from __future__ import annotations

from fractions import Fraction

from .clips import FPS, reference_clips
from .files import ASSETS

SAMPLES = {"slotid_demo_kim": 2_000_000, "slotid_demo_robin": 2_000_013}
SAMPLE_SIZE = 256


def write_samples() -> None:
    """Render and write every sample clip into the packaged assets."""
    from ..video import save_video

    folder = ASSETS / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in SAMPLES.items():
        clip = reference_clips([seed], size=SAMPLE_SIZE, supersample=2)
        save_video(folder / f"{name}.mp4", clip.frames[0], Fraction(FPS))


if __name__ == "__main__":
    write_samples()
