"""Transformers in plain JAX, of the shapes that people fine-tune: GPT-2, BERT and ViT, randomly initialised.

Every weight is float32, in a pytree of dicts and lists, and no dropout is drawn. GPT-2 (Radford et al. 2019) has its
norms before the sub-layers, masked attention, and the token embedding as its head; its outputs are the logits of some
answer tokens at the last position. BERT (Devlin et al. 2019) has its norms after the sub-layers, and a classifier on
the tanh of the first token. ViT (Dosovitskiy et al. 2021) is GPT-2's blocks without the mask on patches of an image.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

ANSWERS = 8


class Shape(NamedTuple):
    """Layers, width and heads; what the embedding holds, and how many outputs there are."""

    layers: int
    width: int
    heads: int
    tokens: int
    length: int
    outputs: int


GPT2_SMALL = Shape(layers=12, width=768, heads=12, tokens=50257, length=1024, outputs=ANSWERS)
PATCH, SIDE = 16, 224
VIT_B16 = Shape(layers=12, width=768, heads=12, tokens=0, length=(SIDE // PATCH) ** 2 + 1, outputs=10)

Net = tuple[Callable, dict]


def gpt2(shape: Shape, key: jax.Array) -> Net:
    """`apply(params, ids) -> (n, outputs)`, and parameters."""
    keys = jax.random.split(key, 3)
    params = {
        "tokens": _normal(keys[0], shape.tokens, shape.width),
        "positions": _normal(keys[1], shape.length, shape.width),
        "blocks": _blocks(keys[2], shape),
        "norm": _norm(shape.width),
    }
    answers = jnp.arange(shape.outputs) * (shape.tokens // shape.outputs)

    def apply(params: dict, ids: jax.Array) -> jax.Array:
        x = params["tokens"][ids] + params["positions"][: ids.shape[1]]
        for block in params["blocks"]:
            x = _before(block, x, shape.heads, causal=True)
        return _normed(params["norm"], x[:, -1]) @ params["tokens"][answers].T

    return apply, params


def bert(shape: Shape, key: jax.Array) -> Net:
    """`apply(params, ids) -> (n, outputs)`, and parameters."""
    keys = jax.random.split(key, 5)
    params = {
        "tokens": _normal(keys[0], shape.tokens, shape.width),
        "positions": _normal(keys[1], shape.length, shape.width),
        "norm": _norm(shape.width),
        "blocks": _blocks(keys[2], shape),
        "pooler": _dense(keys[3], shape.width, shape.width),
        "head": _dense(keys[4], shape.width, shape.outputs),
    }

    def apply(params: dict, ids: jax.Array) -> jax.Array:
        x = _normed(params["norm"], params["tokens"][ids] + params["positions"][: ids.shape[1]])
        for block in params["blocks"]:
            x = _normed(block["norm1"], x + _attention(block, x, shape.heads, causal=False))
            x = _normed(block["norm2"], x + _feed_forward(block, x))
        return _applied(params["head"], jnp.tanh(_applied(params["pooler"], x[:, 0])))

    return apply, params


def vit(shape: Shape, key: jax.Array) -> Net:
    """`apply(params, images (n, side, side, 3)) -> (n, outputs)`, and parameters."""
    keys = jax.random.split(key, 5)
    params = {
        "patches": _dense(keys[0], 3 * PATCH * PATCH, shape.width),
        "first": _normal(keys[1], 1, shape.width),
        "positions": _normal(keys[2], shape.length, shape.width),
        "blocks": _blocks(keys[3], shape),
        "norm": _norm(shape.width),
        "head": _dense(keys[4], shape.width, shape.outputs),
    }

    def apply(params: dict, images: jax.Array) -> jax.Array:
        n, side = images.shape[0], images.shape[1] // PATCH
        patches = images.reshape(n, side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, side**2, -1)
        first = jnp.broadcast_to(params["first"], (n, 1, shape.width))
        x = jnp.concatenate([first, _applied(params["patches"], patches)], axis=1) + params["positions"]
        for block in params["blocks"]:
            x = _before(block, x, shape.heads, causal=False)
        return _applied(params["head"], _normed(params["norm"], x[:, 0]))

    return apply, params


def _before(block: dict, x: jax.Array, heads: int, *, causal: bool) -> jax.Array:
    """A block with its norms before the sub-layers."""
    x = x + _attention(block, _normed(block["norm1"], x), heads, causal=causal)
    return x + _feed_forward(block, _normed(block["norm2"], x))


def _attention(block: dict, x: jax.Array, heads: int, *, causal: bool) -> jax.Array:
    n, length, width = x.shape
    q, k, v = jnp.split(_applied(block["qkv"], x).reshape(n, length, 3 * heads, width // heads), 3, axis=2)
    scores = jnp.einsum("nihc,njhc->nhij", q, k) / (width // heads) ** 0.5
    if causal:
        scores = jnp.where(jnp.tri(length, dtype=bool), scores, -1e9)
    mixed = jnp.einsum("nhij,njhc->nihc", jax.nn.softmax(scores), v).reshape(n, length, width)
    return _applied(block["out"], mixed)


def _feed_forward(block: dict, x: jax.Array) -> jax.Array:
    return _applied(block["down"], jax.nn.gelu(_applied(block["up"], x)))


def _applied(dense: dict, x: jax.Array) -> jax.Array:
    return x @ dense["w"] + dense["b"]


def _normed(norm: dict, x: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return norm["scale"] * centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5) + norm["shift"]


def _blocks(key: jax.Array, shape: Shape) -> list[dict]:
    width = shape.width
    sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}

    def block(key: jax.Array) -> dict:
        keys = jax.random.split(key, len(sizes))
        dense = {name: _dense(one, *size) for one, (name, size) in zip(keys, sizes.items(), strict=True)}
        return dense | {"norm1": _norm(width), "norm2": _norm(width)}

    return [block(one) for one in jax.random.split(key, shape.layers)]


def _dense(key: jax.Array, inputs: int, outputs: int) -> dict:
    return {"w": _normal(key, inputs, outputs), "b": jnp.zeros(outputs, jnp.float32)}


def _norm(width: int) -> dict:
    return {"scale": jnp.ones(width, jnp.float32), "shift": jnp.zeros(width, jnp.float32)}


def _normal(key: jax.Array, *shape: int) -> jax.Array:
    return 0.02 * jax.random.normal(key, shape, jnp.float32)
