"""Operations that PyTorch would decompose, whole: those that most models consist of.

By their full names, since the forms of one operation differ in their arguments. A graph whose operations all have a
rule is read as it stands; to decompose it takes PyTorch longer than to trace it.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope.adapters.torch.operations.activations import OPERATIONS as ACTIVATIONS
from lazyscope.adapters.torch.operations.convolutions import OPERATIONS as CONVOLUTIONS
from lazyscope.adapters.torch.operations.elementwise import OPERATIONS as ELEMENTWISE
from lazyscope.adapters.torch.operations.normalization import OPERATIONS as NORMALIZATION
from lazyscope.adapters.torch.operations.pooling import OPERATIONS as POOLING
from lazyscope.adapters.torch.operations.products import OPERATIONS as PRODUCTS
from lazyscope.adapters.torch.operations.reductions import OPERATIONS as REDUCTIONS
from lazyscope.adapters.torch.operations.shapes import OPERATIONS as SHAPES


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    y = jax.lax.dot_general(x, weight, (((x.ndim - 1,), (weight.ndim - 1,)), ((), ())))
    return y if bias is None else y + bias


def _convolution(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: int = 1,
) -> Array:
    images = x if x.ndim == weight.ndim else x[None]
    y = CONVOLUTIONS["convolution"](images, weight, bias, stride, padding, dilation, False, (0,), groups)
    return y if x.ndim == weight.ndim else y[0]


def _attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Any = None,
    dropout: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    """softmax(q kᵀ·scale + mask) v, 0 for a query without a key."""
    if enable_gqa:
        key, value = (jnp.repeat(v, query.shape[-3] // v.shape[-3], axis=-3) for v in (key, value))
    scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ jnp.swapaxes(key, -1, -2)
    mask = np.tri(*scores.shape[-2:], dtype=bool) if is_causal else mask
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == bool else scores + mask
    return ACTIVATIONS["_safe_softmax"](scores, -1) @ value


def _layer_norm(
    x: Array, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Array:
    return NORMALIZATION["native_layer_norm"](x, shape, weight, bias, eps)[0]


def _rms_norm(x: Array, shape: Sequence[int], weight: Array | None = None, eps: float | None = None) -> Array:
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    y = x * jax.lax.rsqrt(jnp.mean(x * x, tuple(range(-len(shape), 0)), keepdims=True) + eps)
    return y if weight is None else y * weight


def _batch_norm(
    x: Array,
    weight: Any,
    bias: Any,
    mean: Array,
    var: Array,
    training: bool,  # noqa: ARG001
    momentum: float,
    eps: float,
    *_: Any,
) -> Array:
    return NORMALIZATION["_native_batch_norm_legit_no_training"](x, weight, bias, mean, var, momentum, eps)[0]


def _group_norm(x: Array, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Array:
    n, c, *sizes = x.shape
    return NORMALIZATION["native_group_norm"](x, weight, bias, n, c, int(np.prod(sizes)), groups, eps)[0]


def _adaptive_avg_pool(x: Array, sizes: Sequence[int]) -> Array:
    if set(sizes) == {1}:
        return jnp.mean(x, tuple(range(-len(sizes), 0)), keepdims=True)
    return POOLING["_adaptive_avg_pool2d"](x, sizes)


def _flatten(x: Array, start: int = 0, end: int = -1) -> Array:
    start, end = (axis % max(x.ndim, 1) for axis in (start, end))
    return x.reshape(*x.shape[:start], int(np.prod(x.shape[start : end + 1])), *x.shape[end + 1 :])


def _unflatten(x: Array, dim: int, sizes: Sequence[int]) -> Array:
    dim = dim % x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def _transposed(x: Array, a: int, b: int) -> Array:
    return jnp.swapaxes(x, a, b) if x.ndim else x


def _chunks(x: Array, number: int, dim: int = 0) -> list[Array]:
    return _split(x, max(-(-x.shape[dim] // number), 1), dim)


def _split(x: Array, sizes: int | Sequence[int], dim: int = 0) -> list[Array]:
    ends = range(sizes, x.shape[dim], sizes) if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    places = pairwise([0, *map(int, ends), x.shape[dim]])
    return [jax.lax.slice_in_dim(x, low, high, axis=dim % x.ndim) for low, high in places]


def _unbound(x: Array, dim: int = 0) -> list[Array]:
    return [jax.lax.index_in_dim(x, i, dim % x.ndim, keepdims=False) for i in range(x.shape[dim])]


def _rolled(x: Array, shifts: Sequence[int], dims: Sequence[int] = ()) -> Array:
    return jnp.roll(x, tuple(shifts), tuple(dims)) if dims else jnp.roll(x, shifts[0])


def _gated(x: Array, dim: int = -1) -> Array:
    left, right = jnp.split(x, 2, axis=dim)
    return left * jax.nn.sigmoid(right)


def _filled(x: Array, mask: Array, value: Any) -> Array:
    return jnp.where(mask, value, x)


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


# What may be its argument, or a view of it, although PyTorch does not say so of all.
VIEWS: dict[str, Callable[..., Any]] = {
    "chunk.default": _chunks,
    "contiguous.default": _same,
    "dropout.default": _same,
    "expand_as.default": lambda x, other: jnp.broadcast_to(x, other.shape),
    "flatten.using_ints": _flatten,
    "mT.default": lambda x: jnp.swapaxes(x, -1, -2),
    "movedim.intlist": jnp.moveaxis,
    "narrow.default": SHAPES["narrow_copy"],
    "pad.default": lambda x, widths, mode="constant", value=None: SHAPES["constant_pad_nd"](x, widths, value or 0),  # noqa: ARG005
    "real.default": jnp.real,
    "reshape.default": jnp.reshape,
    "split.Tensor": _split,
    "split.sizes": _split,
    "squeeze.dim": SHAPES["squeeze"],
    "t.default": jnp.transpose,
    "to.dtype": _same,
    "to.dtype_layout": _same,
    "to.device": _same,
    "transpose.int": _transposed,
    "type_as.default": _same,
    "unbind.int": _unbound,
    "unflatten.int": _unflatten,
    "view_as.default": lambda x, other: jnp.reshape(x, other.shape),
}
OPERATIONS: dict[str, Callable[..., Any]] = VIEWS | {
    "__and__.Tensor": jnp.bitwise_and,
    "__or__.Tensor": jnp.bitwise_or,
    "adaptive_avg_pool2d.default": _adaptive_avg_pool,
    "adaptive_avg_pool1d.default": _adaptive_avg_pool,
    "addcmul.default": lambda x, a, b, value=1: x + value * (a * b),
    "arange.default": jnp.arange,
    "arange.start": jnp.arange,
    "baddbmm.default": PRODUCTS["addmm"],
    "batch_norm.default": _batch_norm,
    "clamp_max.default": lambda x, high: ELEMENTWISE["clamp"](x, None, high),
    "clamp_min.default": ELEMENTWISE["clamp"],
    "concat.default": SHAPES["cat"],
    "conv1d.default": _convolution,
    "conv2d.default": _convolution,
    "conv3d.default": _convolution,
    "eye.default": jnp.eye,
    "glu.default": _gated,
    "group_norm.default": _group_norm,
    "layer_norm.default": _layer_norm,
    "linear.default": _linear,
    "log_softmax.int": ACTIVATIONS["_log_softmax"],
    "masked_fill.Scalar": _filled,
    "masked_fill.Tensor": _filled,
    "matmul.default": jnp.matmul,
    "max.other": jnp.maximum,
    "max_pool2d.default": lambda *args: POOLING["max_pool2d_with_indices"](*args)[0],
    "min.other": jnp.minimum,
    "mv.default": jnp.matmul,
    "new_full.default": lambda _, sizes, value: jnp.full(sizes, value),
    "new_ones.default": lambda _, sizes: jnp.ones(sizes),
    "new_zeros.default": lambda _, sizes: jnp.zeros(sizes),
    "numpy_T.default": jnp.transpose,
    "ones.default": jnp.ones,
    "ones_like.default": jnp.ones_like,
    "outer.default": lambda a, b: a[:, None] * b,
    "relu6.default": lambda x: ACTIVATIONS["hardtanh"](x, 0.0, 6.0),
    "repeat_interleave.self_int": lambda x, times, dim=None: jnp.repeat(x, times, axis=dim),
    "rms_norm.default": _rms_norm,
    "roll.default": _rolled,
    "rsub.Scalar": lambda a, b, alpha=1: ELEMENTWISE["sub"](b, a, alpha),
    "rsub.Tensor": lambda a, b, alpha=1: ELEMENTWISE["sub"](b, a, alpha),
    "scaled_dot_product_attention.default": _attention,
    "silu.default": lambda x: x * jax.nn.sigmoid(x),
    "softmax.int": ACTIVATIONS["_softmax"],
    "square.default": jnp.square,
    "stack.default": lambda parts, dim=0: jnp.stack(parts, dim),
    "sum.default": jnp.sum,
    "tril.default": jnp.tril,
    "triu.default": jnp.triu,
    "var.dim": lambda x, dim=None, unbiased=True, keepdim=False: REDUCTIONS["var"](x, dim, int(unbiased), keepdim),
    "where.ScalarOther": jnp.where,
    "where.ScalarSelf": jnp.where,
    "zeros.default": jnp.zeros,
    "zeros_like.default": jnp.zeros_like,
}
# Calls that these rules are not of: they draw numbers, take statistics of a batch, pad by what is inside.
_OTHERS: dict[str, Callable[..., bool]] = {
    "batch_norm.default": lambda *args: args[5],
    "dropout.default": lambda x, p, train: train,  # noqa: ARG005
    "pad.default": lambda x, widths, mode="constant", value=None: mode != "constant",  # noqa: ARG005
    "scaled_dot_product_attention.default": lambda *args, **how: (
        (args[4] if len(args) > 4 else how.get("dropout_p", 0.0)) > 0
    ),
}


def is_other(operation: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call is one that the rule of its operation is not of."""
    return operation in _OTHERS and bool(_OTHERS[operation](*args, **kwargs))
