"""Give the demo VAE's encoder its weights in closed form: principal components, folded into its convolutions.

With its residual branches silent the encoder is linear up to its last norm, so components found on rendered clips can
be written straight into the strided convolutions: 2x2 pixels to 12 channels, 4x4 pixels to 24 and 8 that carry what
changes between two frames, 8x8 pixels to 16 and 15, four frames to 16. The last norm and SiLU are passed without loss
by pairs (c, -c), because silu(c) - silu(-c) = c, beside channels of a large constant that keep the norm still. Codes
are rotated so that all have the same variance; otherwise normalising each channel would whiten them, and noise would
weigh as much as shape. The silent branches and the decoder are left to train.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .wan_vae import Down, WanVAE

_COARSE, _CHANGE = 24, 8
_CODES, _MORE = 16, 15
_CONSTANT = 40.0


@torch.no_grad()
def start_encoder(vae: WanVAE, videos: Tensor) -> None:
    """Set the encoder's weights from videos [B, 3, T, H, W] in [-1, 1], T = 4k+1 >= 5."""
    encoder = vae.encoder
    first, second, third = (module for module in encoder.downsamples if isinstance(module, Down))
    for name, parameter in encoder.named_parameters():
        # A residual branch is silent by its last convolution alone: with both at zero, none would ever have a gradient.
        if (parameter.ndim > 4 or parameter.ndim == 1) and not name.endswith("residual.2.weight"):
            parameter.zero_()
    for name, parameter in encoder.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(1.0)
    _pass_on(encoder.conv1.weight, 3)
    for block in encoder.downsamples:
        if hasattr(block, "shortcut") and hasattr(block.shortcut, "weight"):
            _pass_on(block.shortcut.weight, block.shortcut.weight.shape[1])

    # 2 x 2 pixels of 3 channels: nothing lost.
    _set_taps(first, torch.eye(12), inputs=3)
    flat = _squares(videos.transpose(1, 2).flatten(0, 1))
    frames = (len(videos), videos.shape[2])

    # 4 x 4 pixels: the coarse part, and for later frames the change of its first components.
    patches = _squares(flat)
    components = _components(patches, _COARSE + _CHANGE)
    _set_taps(second, components, inputs=12)
    x = _apply(components, patches).unflatten(0, frames)
    mix = torch.zeros(32, 3, 32)
    root = 0.5**0.5
    for channel in range(_COARSE):
        mix[channel, 1:, channel] = root
    for channel in range(_CHANGE):
        mix[_COARSE + channel, 1, channel], mix[_COARSE + channel, 2, channel] = -root, root
    mix[:_COARSE] *= root  # a still clip gives what its first frame gives
    mix[_COARSE:] *= root
    second.time_conv.weight.copy_(mix.permute(0, 2, 1)[..., None, None])
    x = torch.cat([x[:, :1], _pairs(x, mix)], dim=1)

    # 8 x 8 pixels: 16 components of the coarse part, rotated to equal variance, and 15 of the change.
    patches = _squares(x.flatten(0, 1))
    is_change = torch.arange(32).repeat(4) >= _COARSE
    coarse = torch.zeros(_CODES, 128)
    coarse[:, ~is_change] = _hadamard(_CODES) @ _components(patches[:, ~is_change], _CODES)
    change = torch.zeros(_MORE, 128)
    later = patches.unflatten(0, (frames[0], -1))[:, 1:].flatten(0, 1)
    change[:, is_change] = _components(later[:, is_change], _MORE)
    spatial = torch.zeros(64, 128)
    spatial[:_CODES], spatial[_CODES : 2 * _CODES] = coarse, -coarse
    spatial[2 * _CODES : 2 * _CODES + _MORE] = change
    _set_taps(third, spatial, inputs=32)
    third.resample[1].bias[2 * _CODES + _MORE :] = _CONSTANT
    codes = _apply(spatial, patches).unflatten(0, (frames[0], -1))

    # Four frames: 16 components of two such codes, turned so that a still clip keeps its first frame's code.
    used = [*range(_CODES), *range(2 * _CODES, 2 * _CODES + _MORE)]
    both = torch.cat([codes[:, 1::2, used], codes[:, 2::2, used]], dim=2).flatten(0, 1)
    components = _components(both, _CODES)
    still = (both[:, :_CODES] + both[:, len(used) : len(used) + _CODES]) / 2
    found = _apply(components, both)
    centred = [part.movedim(1, -1).flatten(0, -2) - part.mean((0, 2, 3)) for part in (still, found)]
    left, _, right = torch.linalg.svd(centred[0].T @ centred[1])
    turned = left @ right @ components * root
    time = torch.zeros(64, 3, 64)
    time[:_CODES, 1, used], time[:_CODES, 2, used] = turned[:, : len(used)], turned[:, len(used) :]
    time[_CODES : 2 * _CODES] = -time[:_CODES]
    for block in (*encoder.downsamples[9:], encoder.middle[0], encoder.middle[2]):
        # The constant fills the norm of a branch; without this it would see next to nothing of the codes.
        block.residual[0].gamma[: 2 * _CODES] = _CONSTANT / 2
    third.time_conv.weight.copy_(time.permute(0, 2, 1)[..., None, None])
    third.time_conv.bias[2 * _CODES + _MORE :] = _CONSTANT

    head = encoder.head[2].weight
    for code in range(_CODES):
        head[code, code, -1, 1, 1], head[code, _CODES + code, -1, 1, 1] = 1.0, -1.0
    vae.conv1.bias.zero_()
    _pass_on(vae.conv1.weight, _CODES)


def _pass_on(weight: Tensor, channels: int) -> None:
    """Make a convolution copy its first channels."""
    weight.zero_()
    for channel in range(channels):
        weight[channel, channel, -1, weight.shape[3] // 2, weight.shape[4] // 2] = 1.0


def _set_taps(down: Down, matrix: Tensor, inputs: int) -> None:
    """Write a map of 2x2 squares, [outputs, 4 * inputs] with channels fastest, into a strided convolution."""
    weight = down.resample[1].weight
    weight.zero_()
    down.resample[1].bias.zero_()
    weight[: len(matrix), :inputs, :2, :2] = matrix.unflatten(1, (2, 2, inputs)).permute(0, 3, 1, 2)


def _squares(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, 4 C, H/2, W/2]: the 2x2 squares, row by row, channels fastest."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def _components(x: Tensor, count: int) -> Tensor:
    """The first principal directions [count, C] of [N, C, H, W]."""
    rows = x.movedim(1, -1).flatten(0, -2).double()
    rows = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    chosen = vectors.flip(1)[:, :count].T
    # A direction's sign is arbitrary; fixing it keeps the weights the same on every machine.
    signs = chosen.gather(1, chosen.abs().argmax(1, keepdim=True)).sign()
    return (chosen * signs).float()


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("oc,nchw->nohw", matrix, x)


def _pairs(x: Tensor, mix: Tensor) -> Tensor:
    """Frames [B, T, C, H, W] after the first, two by two, through the taps `mix` [outputs, 3, C]."""
    return sum(torch.einsum("oc,btchw->btohw", mix[:, tap], x[:, tap::2][:, : (x.shape[1] - 1) // 2]) for tap in (1, 2))


def _hadamard(size: int) -> Tensor:
    """Orthogonal matrix [size, size] of equal absolute entries; `size` is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5
