"""A small Llama, its parameters named as in a GGUF, so that nothing is renamed on the way there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """What the numbers are; with 1,024 tokens that makes 1.8 million parameters."""

    tokens: int
    width: int = 192
    blocks: int = 4
    heads: int = 6
    kv_heads: int = 3
    feed_forward: int = 512
    context: int = 256
    rope_base: float = 10_000.0
    epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Return how wide one head is."""
        return self.width // self.heads


class Block(nn.Module):
    """Attention, then a gated feed-forward layer; each adds to what comes in."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        inner, shared = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.attn_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.attn_q = nn.Linear(shape.width, inner, bias=False)
        self.attn_k = nn.Linear(shape.width, shared, bias=False)
        self.attn_v = nn.Linear(shape.width, shared, bias=False)
        self.attn_output = nn.Linear(inner, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.ffn_gate = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        """Return what the block makes of `x` (batch, time, width)."""
        x = x + self._attend(self.attn_norm(x), turn)
        y = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(y)) * self.ffn_up(y))

    def _attend(self, x: Tensor, turn: Tensor) -> Tensor:
        shape, (batch, time, _) = self.shape, x.shape
        q = turned(self.attn_q(x).view(batch, time, shape.heads, -1), turn)
        k = turned(self.attn_k(x).view(batch, time, shape.kv_heads, -1), turn)
        v = self.attn_v(x).view(batch, time, shape.kv_heads, -1)
        times = shape.heads // shape.kv_heads
        k, v = (each.repeat_interleave(times, dim=2) for each in (k, v))
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn_output(mixed.transpose(1, 2).reshape(batch, time, -1))


class Llama(nn.Module):
    """The whole model; its embedding is its output layer too."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.tokens, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.output_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.register_buffer("turn", turns(shape), persistent=False)
        for name, parameter in self.named_parameters():
            if not name.endswith("norm.weight"):
                nn.init.normal_(parameter, std=0.05)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits (batch, time, tokens) of what follows each of `ids` (batch, time)."""
        x = self.token_embd(ids)
        for block in self.blk:
            x = block(x, self.turn[: ids.shape[1]])
        return self.output_norm(x) @ self.token_embd.weight.T


def turns(shape: Shape) -> Tensor:
    """Return by how much each pair of numbers is turned at each place: cosine and sine."""
    pair = torch.arange(0, shape.head_width, 2) / shape.head_width
    angle = torch.outer(torch.arange(shape.context), shape.rope_base**-pair)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """Turn neighbours as pairs, as the first Llama did: llama.cpp then takes the weights as is."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = turn[:, None, :, 0], turn[:, None, :, 1]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def load(weights: Mapping[str, Tensor]) -> Llama:
    """Return the model of these weights; raises `RuntimeError` where they are of another shape."""
    model = Llama(Shape(tokens=len(weights["token_embd.weight"])))
    model.load_state_dict(dict(weights))
    return model


@torch.inference_mode()
def continued(model: Llama, ids: list[int], stop: int, most: int) -> list[int]:
    """Return what the model says next, always the likeliest token, up to `stop` or `most` of it."""
    said: list[int] = []
    while len(said) < most and len(ids) + len(said) < model.shape.context:
        token = int(model(torch.tensor([[*ids, *said]]))[0, -1].argmax())
        if token == stop:
            break
        said.append(token)
    return said
