"""The two networks that judge pictures. They share nothing with the VAE, the video model or the encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blinks import blink_rates
from .mouth import MouthNet
from .targets import HUES, KINDS, NUMERIC, TRACK_SCALES, VOCABULARIES, standardised

SIDE = 64
FRAMES = 17
FEATURES = 256
_FRAME = 160
_MOTION = 24
_TRACKS = len(TRACK_SCALES)
OUTPUTS = {
    "numeric": len(NUMERIC),
    "hues": 2 * len(HUES),
    "kinds": 3 * len(KINDS),
    "yaw": 1,
    **{kind: len(words) for kind, words in VOCABULARIES.items()},
}


class FrameNet(nn.Sequential):
    """Pictures [N, 3, 64, 64] in [-1, 1] to features [N, width]."""

    def __init__(self, width: int) -> None:
        def conv(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2), nn.SiLU()]

        super().__init__(
            *conv(3, 16, 4, 2), *conv(16, 32, 3, 2), *conv(32, 32, 3, 1), *conv(32, 64, 3, 2), *conv(64, 64, 3, 1),
            *conv(64, 64, 3, 1), *conv(64, 32, 1, 1), nn.Flatten(), nn.Linear(32 * 64, width), nn.SiLU(),
        )  # fmt: skip
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)


class ProbeNet(nn.Module):
    """Clips [B, 17, 3, 64, 64] in [-1, 1] to everything the probe is asked for.

    Fewer frames, spread over a clip, do for what does not move.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frame = FrameNet(_FRAME)
        self.tracks = nn.Linear(_FRAME, _TRACKS)
        self.motion = nn.Linear(_FRAME, _MOTION)
        self.mix = nn.Sequential(
            nn.Conv1d(_TRACKS + _MOTION, 64, 3, padding=1), nn.SiLU(), nn.Conv1d(64, 32, 3, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(32 * FRAMES, 192), nn.SiLU(),
        )  # fmt: skip
        self.body = nn.Sequential(nn.Linear(2 * _FRAME + 192, FEATURES), nn.SiLU())
        self.out = nn.Linear(FEATURES, sum(OUTPUTS.values()))
        self.mouth = MouthNet()
        self.register_buffer("scales", torch.tensor(list(TRACK_SCALES.values())), persistent=False)

    def forward(self, clips: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """What `look` gives, but smile asymmetry and blink rate measured where the tracks say."""
        outputs, features, tracks = self.look(clips)
        with torch.autocast(clips.device.type, enabled=False):
            where = tracks.detach() * self.scales
            closed = where[..., list(TRACK_SCALES).index("blink")]
            numeric = list(outputs["numeric"].unbind(-1))
            numeric[NUMERIC.index("smile_asymmetry")] = self.mouth(clips, where)
            if clips.shape[1] == FRAMES:
                numeric[NUMERIC.index("blink_rate")] = standardised("blink_rate", blink_rates(closed))
        return {**outputs, "numeric": torch.stack(numeric, -1)}, features, tracks

    def look(self, clips: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The named outputs [B, n] of OUTPUTS, the features [B, 256] they come from, and tracks [B, T, 10]."""
        frames = self.frame(clips.flatten(0, 1)).float().unflatten(0, clips.shape[:2])
        with torch.autocast(clips.device.type, enabled=False):
            tracks = self.tracks(frames)
            moving = torch.cat([tracks, self.motion(frames)], dim=-1).transpose(1, 2)
            motion = self.mix(nn.functional.interpolate(moving, FRAMES, mode="nearest-exact"))
            features = self.body(torch.cat([frames.mean(1), frames.amax(1), motion], dim=-1))
            parts = self.out(features).split(list(OUTPUTS.values()), dim=-1)
        return dict(zip(OUTPUTS, parts, strict=True)), features, tracks


class EmbeddingNet(nn.Module):
    """Pictures [N, 3, 64, 64] in [-1, 1] to unit vectors [N, 64] that are near each other for one person."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = FrameNet(_FRAME)
        self.out = nn.Linear(_FRAME, 64)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.project(self.frame(pictures))

    def project(self, features: Tensor) -> Tensor:
        """Frame features [N, width] to unit vectors [N, 64]."""
        return nn.functional.normalize(self.out(features), dim=-1)
