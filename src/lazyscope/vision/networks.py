"""VGG-11 and ResNet-18 as in Chizat et al. 2019 (§3.2): no batch norm, biases, Xavier-normal weights of a given gain.

VGG-11 is features and one linear layer, without the three of the original; ResNet-18 is the CIFAR variant, whose first
convolution is 3 x 3 with stride 1. `factor` multiplies every number of channels. Activation and pooling can be
replaced, so that a smooth twin of each net exists.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from lazyscope.models import Model
from lazyscope.vision import layers
from lazyscope.vision.layers import Layer, Shape

_VGG = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # channels between one pooling and the next
_RESNET = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels and stride of the stages, two blocks each


@cache
def vgg11(
    *,
    factor: float | Fraction = 1,
    classes: int = 10,
    shape: Shape = (32, 32, 3),
    activation: Callable[[], Layer] = layers.relu,
    pool: Callable[[], Layer] = layers.max_pool,
) -> Model:
    """VGG-11: eight convolutions, five poolings and a linear layer; 9 225 610 parameters at factor 1 with ten classes.

    `shape` is that of one image, (height, width, channels) with sides divisible by 32. Raises ValueError for other
    sides or a factor that leaves no channel.
    """
    parts: list[Layer] = []
    for group in _VGG:
        for channels in group:
            parts += [layers.conv(_scaled(channels, factor)), activation()]
        parts.append(pool())
    return network(layers.sequence([*parts, layers.dense(classes)]), shape)


@cache
def resnet18(
    *,
    factor: float | Fraction = 1,
    classes: int = 10,
    shape: Shape = (32, 32, 3),
    activation: Callable[[], Layer] = layers.relu,
) -> Model:
    """ResNet-18 without batch norm: one convolution, eight residual blocks of two, a global mean and a linear layer.

    A 1 x 1 convolution takes the shortcut where shapes change. Raises ValueError for a factor that leaves no channel.
    """
    first = _scaled(64, factor)
    parts, before = [layers.conv(first), activation()], first
    for channels, stride in _RESNET:
        after = _scaled(channels, factor)
        parts += [_block(before, after, stride, activation), _block(after, after, 1, activation)]
        before = after
    return network(layers.sequence([*parts, layers.global_mean(), layers.dense(classes)]), shape)


def network(layer: Layer, shape: Shape) -> Model:
    """A Model of images `(n, *shape)` from one layer (a `sequence`, say).

    `init(key, tau)`: `tau` is the gain of the Xavier-normal weights, biases are 0. `gates` and `difference` as
    `Model` says. Raises ValueError for images of another shape.
    """

    def init(key: Key[Array, ""], tau: float | Array = 1.0) -> PyTree:
        return layer.init(key, shape, tau)[0]

    def apply(params: PyTree, x: Float[Array, "n h w c"], gates: PyTree | None = None) -> Float[Array, "n k"]:
        _check(x, shape)
        return layer.forward(params, x, gates)[0]

    def gates(params: PyTree, x: Float[Array, "n h w c"]) -> PyTree:
        _check(x, shape)
        return layer.forward(params, x, None)[1]

    def difference(
        params0: PyTree, u: PyTree, x: Float[Array, "n h w c"], e: float | Array, frozen: bool = False
    ) -> tuple[Float[Array, "n k"], PyTree]:
        _check(x, shape)
        params0, x = jax.lax.stop_gradient((params0, x))  # differentiable in u alone
        passed = layer.difference(params0, u, x, None, jnp.asarray(e, x.dtype), frozen)
        return passed.dy, jax.tree.map(jnp.equal, passed.gate0, passed.gate)

    jax.eval_shape(lambda key: layer.init(key, shape, 1.0)[0], jax.random.key(0))  # shapes that do not fit, now
    return Model(init, apply, gates, difference)


def _block(before: int, after: int, stride: int, activation: Callable[[], Layer]) -> Layer:
    body = layers.sequence([layers.conv(after, stride=stride), activation(), layers.conv(after)])
    shortcut = None if stride == 1 and before == after else layers.conv(after, size=1, stride=stride)
    return layers.sequence([layers.residual(body, shortcut), activation()])


def _scaled(channels: int, factor: float | Fraction) -> int:
    count = round(channels * factor)
    if count < 1:
        raise ValueError(f"factor must leave at least one channel of {channels}, got {factor}: take 1/64 or more")
    return count


def _check(x: Array, shape: Shape) -> None:
    if x.shape[1:] != shape:
        raise ValueError(f"images must have shape (n, {', '.join(map(str, shape))}), got {tuple(x.shape)}: resize them")
