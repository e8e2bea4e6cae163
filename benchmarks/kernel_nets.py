"""Nets that two versions of JAX can run, each as one plain function of a dict of arrays, with weights from NumPy.

Read by `kernel_peer.py` on one side and by `kernel_peer_process.py`, in the peer's environment, on the other: nothing
here may need anything but JAX of either age.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

Params = dict[str, Any]


class Net(NamedTuple):
    """A function of weights and inputs, the shapes of its weights (the last axis is that of units), and of an input."""

    apply: Callable[[Params, Any], Any]
    shapes: dict[str, tuple[int, ...]]
    example: tuple[int, ...]


def relu(x: Any) -> Any:
    return jnp.maximum(x, 0)


def conv(params: Params, name: str, x: Any, stride: int = 1) -> Any:
    y = lax.conv_general_dilated(
        x, params[f"{name}_w"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + params[f"{name}_b"]


def dense(params: Params, name: str, x: Any) -> Any:
    return x @ params[f"{name}_w"] + params[f"{name}_b"]


def with_bias(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Weights and biases by the shapes of the weights."""
    found = {}
    for name, shape in shapes.items():
        found |= {f"{name}_w": shape, f"{name}_b": shape[-1:]}
    return found


def mlp(widths: tuple[int, ...]) -> Net:
    """A fully connected ReLU net."""
    last = len(widths) - 2

    def apply(params: Params, x: Any) -> Any:
        for layer in range(last):
            x = relu(dense(params, f"layer{layer}", x))
        return dense(params, f"layer{last}", x)

    shapes = {f"layer{i}": (widths[i], widths[i + 1]) for i in range(last + 1)}
    return Net(apply, with_bias(shapes), widths[:1])


def vgg11(factor: float) -> Net:
    """VGG-11 for images of 32 x 32 x 3 and ten outputs."""
    groups = [[round(channels * factor) for channels in g] for g in ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2)]
    shapes, before = {}, 3
    for g, group in enumerate(groups):
        for c, channels in enumerate(group):
            shapes[f"conv{g}{c}"] = (3, 3, before, channels)
            before = channels
    shapes["out"] = (before, 10)

    def apply(params: Params, x: Any) -> Any:
        for g, group in enumerate(groups):
            for c in range(len(group)):
                x = relu(conv(params, f"conv{g}{c}", x))
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
        return dense(params, "out", x.reshape(x.shape[0], -1))

    return Net(apply, with_bias(shapes), (32, 32, 3))


def residual(channels: int) -> Net:
    """Two residual blocks of convolutions, the second of stride 2 with a projection, on images of 16 x 16 x 3."""
    wide = 2 * channels
    shapes = {
        "stem": (3, 3, 3, channels),
        "first0": (3, 3, channels, channels),
        "first1": (3, 3, channels, channels),
        "second0": (3, 3, channels, wide),
        "second1": (3, 3, wide, wide),
        "project": (1, 1, channels, wide),
        "out": (wide, 10),
    }

    def apply(params: Params, x: Any) -> Any:
        x = relu(conv(params, "stem", x))
        x = relu(x + conv(params, "first1", relu(conv(params, "first0", x))))
        inner = conv(params, "second1", relu(conv(params, "second0", x, 2)))
        x = relu(conv(params, "project", x, 2) + inner)
        return dense(params, "out", x.mean((1, 2)))

    return Net(apply, with_bias(shapes), (16, 16, 3))


def attention(tokens: int, width: int, heads: int) -> Net:
    """A transformer block (norm, attention, norm, two dense layers) on tokens that are vectors; mean, ten outputs."""
    shapes = dict.fromkeys(("query", "key", "value", "merge"), (width, width))
    shapes |= {"up": (width, 4 * width), "down": (4 * width, width), "out": (width, 10)}
    norms = {f"{norm}_{part}": (width,) for norm in ("norm0", "norm1") for part in ("scale", "b")}

    def normed(params: Params, name: str, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * params[f"{name}_scale"] + params[f"{name}_b"]

    def split(x: Any) -> Any:
        return x.reshape(*x.shape[:2], heads, width // heads)

    def apply(params: Params, x: Any) -> Any:
        y = normed(params, "norm0", x)
        query, key, value = (split(dense(params, name, y)) for name in ("query", "key", "value"))
        scores = jnp.einsum("nthd,nshd->nhts", query, key) / np.float32(np.sqrt(width // heads))
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        weights = weights / weights.sum(-1, keepdims=True)
        x = x + dense(params, "merge", jnp.einsum("nhts,nshd->nthd", weights, value).reshape(x.shape))
        x = x + dense(params, "down", jnp.tanh(dense(params, "up", normed(params, "norm1", x))))
        return dense(params, "out", x.mean(1))

    return Net(apply, with_bias(shapes) | norms, (tokens, width))


NETS = {
    "MLP 64-256-256-10": mlp((64, 256, 256, 10)),
    "VGG-11 width 1/8": vgg11(1 / 8),
    "residual conv net": residual(16),
    "attention block": attention(16, 64, 4),
}
CASES = (
    ("MLP 64-256-256-10", 50),
    ("MLP 64-256-256-10", 200),
    ("VGG-11 width 1/8", 16),
    ("VGG-11 width 1/8", 64),
    ("residual conv net", 32),
    ("attention block", 32),
)


def weights(net: Net) -> dict[str, np.ndarray]:
    """He-normal weights, scales of one, small biases: the same in both environments."""
    draw = np.random.default_rng(1)
    found = {}
    for name, shape in net.shapes.items():
        if len(shape) > 1:
            value = draw.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            value = float(name.endswith("scale")) + 0.1 * draw.standard_normal(shape)
        found[name] = value.astype(np.float32)
    return found


def inputs(net: Net, n: int) -> np.ndarray:
    """Normal inputs: the same in both environments."""
    return np.random.default_rng(0).standard_normal((n, *net.example)).astype(np.float32)
