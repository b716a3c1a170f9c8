"""The reader: slots that take what they need from each latent frame and carry it through time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import EncoderConfig, SlotIDConfig
from .ops import sinkhorn_routing
from .tokens import TIME_BANDS, Tokenizer, mlp, time_positions

# Log odds at which a gate is open or shut for all that matters.
CERTAIN = 8.0


class RoutingTrace(NamedTuple):
    """What the slots looked at, from the plan itself.

    plan: [B, F, S + 1, N] mass sent to each slot from each token, mean over heads; the last row is the dustbin.
    marginal_error: [B, F] L1 distance of the slots' masses from their marginal, mean over heads.
    grid: rows and columns of the N tokens.
    evidence: [B, S] log of how much the clip held of what each slot asks for (`SlotReader`), mean over heads.
    """

    plan: Tensor
    marginal_error: Tensor
    grid: tuple[int, int]
    evidence: Tensor


class Read(NamedTuple):
    """One latent frame, read.

    out: [B, S, D].
    found: [B, S, heads] log of how well the frame's tokens match each slot's query.
    plan: [B, S + 1, N], mean over heads.
    error: [B] of the slots' marginal.
    """

    out: Tensor
    found: Tensor
    plan: Tensor
    error: Tensor


class ClipRead(NamedTuple):
    """A clip, read: states [B, F, S, D], plans [B, F, S + 1, N], errors [B, F], log evidence [B, S]."""

    states: Tensor
    plans: Tensor
    errors: Tensor
    evidence: Tensor


class SlotRouter(nn.Module):
    """One read of one latent frame: slots route its tokens by entropic optimal transport."""

    def __init__(self, width: int, heads: int, slots: int, eps: float, iterations: int) -> None:
        super().__init__()
        self.heads, self.slots, self.eps, self.iterations = heads, slots, eps, iterations
        self.norm_slots, self.norm_tokens = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        # The dustbin absorbs background: one more slot with its own query and mass, whose read-out nobody uses.
        self.dustbin = nn.Parameter(torch.randn(heads, 1, width // heads))
        self.dustbin_logit = nn.Parameter(torch.zeros(()))

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, F, N, D] to keys and values [B, F, heads, N, d], once for all frames."""
        k, v = self.key_value(self.norm_tokens(tokens)).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return _unit(k.transpose(-2, -3)), v.transpose(-2, -3)

    def forward(self, state: Tensor, k: Tensor, v: Tensor, log_b: Tensor) -> Read:
        """Read one frame.

        Args:
            state: [B, S, D], what the slots ask with.
            k, v: [B, heads, N, d] of this frame.
            log_b: [B, N] log marginal of the tokens.
        """
        B, H, N, _ = k.shape
        asked = _unit(self.query(self.norm_slots(state)).unflatten(-1, (H, -1)).transpose(1, 2))
        q = torch.cat([asked, _unit(self.dustbin).to(asked.dtype).expand(B, -1, -1, -1)], 2)
        log_a = self._log_marginal().expand(B, H, -1)
        out, row_mass, plan = sinkhorn_routing(
            q, k, v, log_a, log_b.unsqueeze(1).expand(B, H, N), eps=self.eps, iterations=self.iterations
        )
        out = self.out(out[:, :, :-1].transpose(1, 2).flatten(2))
        found = self.scores(asked, k, log_b).logsumexp(-1).transpose(1, 2)
        return Read(out, found, plan.mean(1), (row_mass - log_a.exp()).abs().sum(-1).mean(-1))

    def scores(self, q: Tensor, k: Tensor, log_b: Tensor) -> Tensor:
        """Log of kernel times marginal [B, heads, S, N]: what each slot makes of each token, the other slots apart."""
        return q @ k.transpose(-1, -2) / (math.sqrt(k.shape[-1]) * self.eps) + log_b[:, None, None, :]

    def _log_marginal(self) -> Tensor:
        slots = F.logsigmoid(-self.dustbin_logit) - math.log(self.slots)
        return torch.cat([slots.expand(self.slots), F.logsigmoid(self.dustbin_logit).view(1)]).float()


class SlotReader(nn.Module):
    """Learnable slots, routed to each latent frame in turn and updated by a GRU and a gated residual MLP.

    The GRU holds what the clip adds to a slot's learned start. Beside the read-out it is told, head by head, how what
    it holds compares with what the frame shows: with m_t the log evidence up to frame t and l_t that of the frame,

        m_0 = 0,   odds_t = m_{t-1} - l_t,   m_t = log(exp(m_{t-1}) + exp(l_t))

    An update gate of sigmoid(odds_t) is a softmax over all frames, computed as they come (online softmax: Milakov and
    Gimelshein, arXiv 1805.02867). There training starts: with the mean of the frames, each weighed by how well it
    matches. Evidence 1 (m = 0) is that of one frame whose tokens are at right angles to what is asked.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.initial = nn.Parameter(torch.randn(config.slots, config.width) * config.width**-0.5)
        self.router = SlotRouter(config.width, config.heads, config.slots, config.eps, config.iterations)
        # How much of what a slot holds joins its learned start in asking the next frame.
        self.feedback = nn.Parameter(torch.zeros(config.width))
        self.gru = nn.GRUCell(config.width + config.heads, config.width)
        self._start_as_mean()
        self.norm_mlp, self.mlp = nn.LayerNorm(config.width), mlp(config.width)
        self.gate = nn.Parameter(torch.zeros(config.width))

    def _start_as_mean(self) -> None:
        """Start the GRU as the online softmax of the class.

        As torch starts it, it halves what it holds with every frame, and the last frame of a clip is all that is left.
        """
        width, heads = self.gru.hidden_size, self.router.heads
        update, new = slice(width, 2 * width), slice(2 * width, 3 * width)  # torch's order: reset, update, new
        # Each channel keeps to the head that it comes from.
        own = F.one_hot(torch.arange(width) * heads // width, heads).to(self.gru.weight_ih)
        with torch.no_grad():
            self.gru.weight_ih[:, width:] = 0
            for part in (update, new):
                self.gru.weight_ih[part] = 0
                self.gru.weight_hh[part] = 0
                self.gru.bias_ih[part] = 0
                self.gru.bias_hh[part] = 0
            self.gru.weight_ih[update, width:] = own
            self.gru.weight_ih[new, :width] = torch.eye(width)
            nn.init.eye_(self.router.out.weight)
            nn.init.zeros_(self.router.out.bias)

    def forward(self, tokens: Tensor, log_b: Tensor) -> ClipRead:
        """Read a clip.

        Args:
            tokens: [B, F, N, D].
            log_b: [B, F, N] log marginal of the tokens of each frame.

        Returns:
            The states s_1 .. s_F and what made them.
        """
        B, frames = tokens.shape[:2]
        keys, values = self.router.keys_values(tokens)
        held = tokens.new_zeros(B, *self.initial.shape)
        evidence = tokens.new_zeros(B, len(self.initial), self.router.heads)
        states, plans, errors = [], [], []
        for t in range(frames):
            asking = self.initial + self.feedback * held
            read, found, plan, error = self.router(asking, keys[:, t], values[:, t], log_b[:, t])
            odds = (evidence - found).clamp(-CERTAIN, CERTAIN)
            evidence = torch.logaddexp(evidence, found)
            held = self.gru(torch.cat([read, odds], -1).flatten(0, 1), held.flatten(0, 1)).view_as(held)
            states.append(self.state_of(held))
            plans.append(plan)
            errors.append(error)
        return ClipRead(torch.stack(states, 1), torch.stack(plans, 1), torch.stack(errors, 1), evidence.mean(-1))

    def state_of(self, held: Tensor) -> Tensor:
        """What a slot says, [..., S, D], from what it holds."""
        state = self.initial + held
        return state + torch.sigmoid(self.gate) * self.mlp(self.norm_mlp(state))


class TokensOut(nn.Module):
    """Slot states to identity tokens: S of appearance from the last state, S of dynamics from each trajectory."""

    def __init__(self, config: EncoderConfig, identity_width: int) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.appearance = nn.Linear(width, identity_width)
        self.trajectory = nn.Linear(2 * width, width)
        self.time_position = nn.Linear(2 * TIME_BANDS, width)
        self.pooling = nn.Linear(width, 1, bias=False)
        self.dynamics = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, identity_width))
        # A photo moves nothing: it gets this in place of dynamics.
        self.no_dynamics = nn.Parameter(torch.randn(config.slots, identity_width) * 0.02)

    def forward(self, states: Tensor) -> Tensor:
        """[B, F, S, D] -> [B, 2 S, D_id]."""
        B, frames = states.shape[:2]
        states = self.norm(states)
        appearance = self.appearance(states[:, -1])
        if frames == 1:
            return torch.cat([appearance, self.no_dynamics.expand(B, -1, -1).to(appearance.dtype)], 1)
        later, change = states[:, 1:], states[:, 1:] - states[:, :-1]
        time = self.time_position(time_positions(frames - 1, states.device).to(states.dtype)).unsqueeze(1)
        features = F.gelu(self.trajectory(torch.cat([later, change], -1)) + time)
        pooled = (torch.softmax(self.pooling(features), 1) * features).sum(1)
        return torch.cat([appearance, self.dynamics(pooled)], 1)


class IdentityEncoder(nn.Module):
    """Latents of a reference clip to identity tokens."""

    def __init__(self, config: SlotIDConfig) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(config.encoder, config.backbone.latent_channels)
        self.reader = SlotReader(config.encoder)
        self.out = TokensOut(config.encoder, config.identity_width)

    def forward(self, latents: Tensor, saliency: Tensor | None = None) -> tuple[Tensor, RoutingTrace]:
        """Encode.

        Args:
            latents: [B, C, F, h, w] in the model's normalised space.
            saliency: [B, F, h/p, w/p] >= 0, how much each token counts (a face mask); None counts all the same.

        Returns:
            Identity tokens [B, 2 S, D_id], and what the slots looked at.
        """
        patch = self.tokenizer.patch
        tokens = self.tokenizer(latents)
        B, frames, N, _ = tokens.shape
        if saliency is None:
            saliency = latents.new_ones(B, frames, N)
        weights = saliency.reshape(B, frames, N).float()
        log_b = (weights / weights.sum(-1, keepdim=True)).log()
        # Where training mixes precisions, routing and recurrence do not: the routing's gradient is exact in float32,
        # and a recurrence adds up its rounding.
        with torch.autocast(latents.device.type, enabled=False):
            read = self.reader(tokens.to(latents.dtype), log_b)
            grid = (latents.shape[-2] // patch, latents.shape[-1] // patch)
            return self.out(read.states), RoutingTrace(read.plans, read.errors, grid, read.evidence)


def weighed(tokens: Tensor, evidence: Tensor) -> Tensor:
    """One identity's tokens from those of several clips of a person: each slot's mean by its evidence in each clip.

    Args:
        tokens: [M, ..., 2 S, D_id] of M clips.
        evidence: [M, ..., S] log evidence.

    Returns:
        [..., 2 S, D_id].
    """
    shares = evidence.softmax(0)
    return (torch.cat([shares, shares], -1).unsqueeze(-1).to(tokens.dtype) * tokens).sum(0)


def _unit(x: Tensor) -> Tensor:
    """Root-mean-square 1 over the last axis, so that eps means the same in every head and throughout training."""
    return F.rms_norm(x, x.shape[-1:])
