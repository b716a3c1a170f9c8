"""The Wan 2.1 video VAE at any width, in Wan's own key names, all frames of a clip at once.

Hosts run this layout in chunks with a cache, to save memory. Training wants the opposite: here a clip of 4k+1 frames
goes through in one piece, which is faster and gives the same numbers, because every convolution over time is causal
with zeros before the first frame. The file that `state_dict` gives loads in ComfyUI and in diffusers.

To train in minutes on a CPU, `WanVAE(light=True)` leaves out the branches that cost most: those of the encoder at full
size and some at half size, the last of the decoder's there, and the look across time where frames are large. What is
left out starts and stays at zero, so the weights mean the same in the whole layout, and a longer training may switch it
on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_CHANNELS = 16
_MULTIPLIERS = (1, 2, 4, 4)
_TIME_DOWN = (False, True, True)
# What `light` skips, and where it still looks across time (16 pixels a side and fewer), as indices of the layers.
_ENCODER_SKIPS, _ENCODER_TIMED = (0, 1, 3, 6), (7, 9, 10)
_DECODER_SKIPS, _DECODER_TIMED = (10, 14), (0, 1, 2, 4, 5, 6)


class CausalConv3d(nn.Conv3d):
    """Convolution over [B,C,T,H,W] that sees no later frame; same size out as in."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=(0, kernel // 2, kernel // 2))
        self.spatial = kernel == 1

    def forward(self, x: Tensor) -> Tensor:
        taps = 1 if self.spatial or x.shape[2] == 1 else self.kernel_size[0]
        frames = x.shape[2]
        padded = F.pad(x, (0, 0, 0, 0, taps - 1, 0))
        # Taps over time as channels of a flat convolution: the same sums, several times as fast on a CPU.
        shifted = torch.cat([padded[:, :, tap : tap + frames] for tap in range(taps)], 1)
        weight = self.weight[:, :, -taps:].transpose(1, 2).flatten(1, 2)
        flat = F.conv2d(shifted.transpose(1, 2).flatten(0, 1), weight, self.bias, padding=self.padding[1:])
        return flat.unflatten(0, (x.shape[0], frames)).transpose(1, 2)


class RMSNorm(nn.Module):
    """Root-mean-square norm over channels; `axes` trailing axes follow the channels."""

    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *(1,) * axes))

    def forward(self, x: Tensor) -> Tensor:
        # The norm as hosts have it, F.normalize, in a form that is four times as fast on a CPU.
        return x * x.square().mean(1, keepdim=True).clamp_min(1e-12).rsqrt() * self.gamma.to(x.dtype)


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # Wan's indices count a dropout that is never used.
        self.residual = nn.Sequential(
            RMSNorm(inputs, 3), nn.SiLU(), CausalConv3d(inputs, outputs, 3),
            RMSNorm(outputs, 3), nn.SiLU(), nn.Identity(), CausalConv3d(outputs, outputs, 3),
        )  # fmt: skip
        self.shortcut = CausalConv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.skipped = False

    def forward(self, x: Tensor) -> Tensor:
        kept = self.shortcut(x)
        # Of a branch whose last weights are zero, its last bias is left.
        return kept + (self.residual[-1].bias[:, None, None, None].to(kept.dtype) if self.skipped else self.residual(x))


class Attention(nn.Module):
    """Self-attention of one head within each frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, 2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2).flatten(0, 1)
        q, k, v = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(frames.shape)
        return x + self.proj(mixed).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class Down(nn.Module):
    """Halve height and width, and with `time` the frames after the first, which stays alone."""

    def __init__(self, width: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2))
        if time:
            self.time_conv = nn.Conv3d(width, width, (3, 1, 1), stride=(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        frames = self.resample(x.transpose(1, 2).flatten(0, 1))
        x = frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        if not hasattr(self, "time_conv") or x.shape[2] == 1:
            return x
        return torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)


class Up(nn.Module):
    """Double height and width, and with `time` the frames after the first."""

    def __init__(self, width: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(width, width // 2, 3, padding=1)
        )
        if time:
            self.time_conv = nn.Conv3d(width, 2 * width, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "time_conv") and x.shape[2] > 1:
            later = self.time_conv(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)))
            pairs = later.unflatten(1, (2, x.shape[1])).permute(0, 2, 3, 1, 4, 5)
            x = torch.cat([x[:, :, :1], pairs.flatten(2, 3)], dim=2)
        frames = self.resample(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(3, width, 3)
        layers: list[nn.Module] = []
        inputs = width
        for level, multiplier in enumerate(_MULTIPLIERS):
            outputs = width * multiplier
            layers += [ResidualBlock(inputs, outputs), ResidualBlock(outputs, outputs)]
            if level < len(_TIME_DOWN):
                layers.append(Down(outputs, _TIME_DOWN[level]))
            inputs = outputs
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(inputs)
        self.head = nn.Sequential(RMSNorm(inputs, 3), nn.SiLU(), CausalConv3d(inputs, 2 * LATENT_CHANNELS, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        deepest = width * _MULTIPLIERS[-1]
        self.conv1 = CausalConv3d(LATENT_CHANNELS, deepest, 3)
        self.middle = _middle(deepest)
        layers: list[nn.Module] = []
        inputs = deepest
        for level, multiplier in enumerate(reversed(_MULTIPLIERS)):
            outputs = width * multiplier
            layers += [ResidualBlock(inputs, outputs), ResidualBlock(outputs, outputs), ResidualBlock(outputs, outputs)]
            inputs = outputs
            if level < len(_TIME_DOWN):
                layers.append(Up(outputs, _TIME_DOWN[::-1][level]))
                inputs = outputs // 2
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(RMSNorm(inputs, 3), nn.SiLU(), CausalConv3d(inputs, 3, 3))

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(z))))


class WanVAE(nn.Module):
    """Videos [B,3,T,H,W] in [-1, 1], T = 4k+1, to latents [B,16,k+1,H/8,W/8] and back."""

    def __init__(self, width: int = 16, *, light: bool = False) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.conv1 = CausalConv3d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.conv2 = CausalConv3d(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = Decoder(width)
        self._start()
        if light:
            self._lighten()

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents."""
        mean, log_variance = self.conv1(self.encoder(video)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Videos, not clamped."""
        return self.decoder(self.conv2(latents))

    @torch.no_grad()
    def wake(self, part: str) -> None:
        """Let what `light` does not leave out take part again in `part` ("encoder" or "decoder"), so that it can train
        where a file has left it silent.

        A branch with both its convolutions at zero would have no gradient: its first one is drawn anew, which changes
        nothing that comes out.
        """
        light = WanVAE(self.encoder.conv1.out_channels, light=True)
        for mine, its in zip(getattr(self, part).modules(), getattr(light, part).modules(), strict=True):
            if isinstance(mine, ResidualBlock):
                mine.skipped = mine.skipped and its.skipped
                if not any(mine.residual[at].weight.any() for at in (2, -1)):
                    mine.residual[2].weight.copy_(its.residual[2].weight)
            if isinstance(mine, CausalConv3d):
                mine.spatial = mine.spatial and its.spatial

    @torch.no_grad()
    def _start(self) -> None:
        """Begin as a plain stack of resamplings: residual branches silent, nothing looking across time yet."""
        for module in self.modules():
            if isinstance(module, CausalConv3d) and module.kernel_size[0] == 3:
                module.weight[:, :, :-1] = 0.0
                module.weight.mul_(3**0.5)
        for module in self.modules():
            last = module.residual[-1] if isinstance(module, ResidualBlock) else getattr(module, "proj", None)
            if last is not None:
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def _lighten(self) -> None:
        """Leave out what `light` leaves out."""
        for index in _ENCODER_SKIPS:
            self.encoder.downsamples[index].skipped = True
        for index in _DECODER_SKIPS:
            self.decoder.upsamples[index].skipped = True
        timed = [self.encoder.middle, self.decoder.middle]
        timed += [self.encoder.downsamples[index] for index in _ENCODER_TIMED]
        timed += [self.decoder.upsamples[index] for index in _DECODER_TIMED]
        keep = {id(module) for part in timed for module in part.modules()}
        for module in self.modules():
            if isinstance(module, CausalConv3d) and id(module) not in keep:
                module.spatial = True


def _middle(width: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(width, width), Attention(width), ResidualBlock(width, width))
