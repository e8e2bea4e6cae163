"""What each ATen operation of an exported PyTorch graph means, in jax.numpy.

One literal dict, operation name -> function of arrays and Python values, for the core operations that
`torch.export` leaves after its decompositions. Only what the derivative of a model in evaluation mode needs: the value
in PyTorch's convention, and PyTorch's choice of derivative at kinks and ties, because a zero-initialised layer sits
exactly on one. No function here looks at types: the interpreter casts to the type that the graph states.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def _axes(dim: Any) -> Any:
    return None if dim is None or dim == [] else tuple(dim) if isinstance(dim, Sequence) else dim


def _spread(value: Any, n: int) -> list[int]:
    values = list(value)
    return values * n if len(values) == 1 else values


def _at(x: Array, dim: int, index: Any) -> tuple[Any, ...]:
    return (slice(None),) * (dim % x.ndim) + (index,)


# --- arithmetic


def _add(a: Any, b: Any, alpha: Any = 1) -> Array:
    return a + b if alpha == 1 else a + alpha * b


def _sub(a: Any, b: Any, alpha: Any = 1) -> Array:
    return a - b if alpha == 1 else a - alpha * b


def _div(a: Any, b: Any, rounding_mode: str | None = None) -> Array:
    if rounding_mode is None:
        return a / b
    return jnp.floor_divide(a, b) if rounding_mode == "floor" else jnp.trunc(a / b)


def _pow(a: Any, b: Any) -> Array:
    return a ** (int(b) if isinstance(b, float) and b.is_integer() else b)


def _addmm(bias: Array, a: Array, b: Array, beta: Any = 1, alpha: Any = 1) -> Array:
    product = a @ b
    return (bias if beta == 1 else beta * bias) + (product if alpha == 1 else alpha * product)


# --- activations: the branch that is not taken must stay finite, or its derivative 0·inf is NaN


def _clamp(x: Array, low: Any = None, high: Any = None) -> Array:
    if low is not None:
        x = jnp.where(x < low, low, x)  # derivative 1 at the bounds
    return x if high is None else jnp.where(x > high, high, x)


def _hardtanh(x: Array, low: Any = -1.0, high: Any = 1.0) -> Array:
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))  # derivative 0 at the bounds


def _softplus(x: Array, beta: Any = 1.0, threshold: Any = 20.0) -> Array:
    linear = beta * x > threshold
    return jnp.where(linear, x, jnp.log1p(jnp.exp(jnp.where(linear, 0, beta * x))) / beta)


def _elu(x: Array, alpha: Any = 1.0, scale: Any = 1.0, input_scale: Any = 1.0) -> Array:
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(input_scale * jnp.where(x > 0, 0, x)))


def _gelu(x: Array, approximate: str = "none") -> Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


# --- reductions


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, dim=None, keepdim=False: function(x, axis=_axes(dim), keepdims=keepdim)


def _var(x: Array, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Array:
    return jnp.var(x, axis=_axes(dim), ddof=1 if correction is None else correction, keepdims=keepdim)


def _extremum(reduce: Callable[..., Array], choose: Callable[..., Array]) -> Callable[..., Array | tuple[Array, Array]]:
    def function(x: Array, dim: int | None = None, keepdim: bool = False) -> Array | tuple[Array, Array]:
        if dim is None:
            return reduce(x)
        index = choose(x, axis=dim, keepdims=True)  # one index takes the whole derivative, also on a tie
        value = jnp.take_along_axis(x, index, axis=dim)
        return (value, index) if keepdim else (jnp.squeeze(value, dim), jnp.squeeze(index, dim))

    return function


def _cumsum(x: Array, dim: int) -> Array:
    # As a product: on CPU, XLA compiles the derivative of one entry of jnp.cumsum wrongly (jax 0.10).
    x = x.astype(int) if x.dtype == bool else x
    return _along(x, dim % x.ndim, np.triu(np.ones((x.shape[dim], x.shape[dim]))))


def _vector_norm(x: Array, ord: Any = 2, dim: Any = None, keepdim: bool = False) -> Array:  # noqa: A002
    if ord == 1:
        return jnp.sum(jnp.abs(x), axis=_axes(dim), keepdims=keepdim)
    if ord != 2:
        raise ValueError(f"from_torch knows vector norms of order 1 and 2, got {ord}: write it out")
    square = jnp.sum(x * x, axis=_axes(dim), keepdims=keepdim)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))  # derivative 0 at 0


# --- shapes and indices


def _expand(x: Array, sizes: Sequence[int], implicit: bool = False) -> Array:  # noqa: ARG001
    own = (1,) * (len(sizes) - x.ndim) + x.shape
    return jnp.broadcast_to(x, [old if new == -1 else new for old, new in zip(own, sizes, strict=True)])


def _squeeze(x: Array, dim: Any = None) -> Array:
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, Sequence) else [dim]
    return jnp.squeeze(x, tuple(d % x.ndim for d in dims if x.ndim and x.shape[d] == 1))


def _slice(x: Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Array:
    return x[_at(x, dim, slice(start, end, step))]


def _split(x: Array, sizes: Any, dim: int = 0) -> list[Array]:
    if isinstance(sizes, int):
        return jnp.split(x, range(sizes, x.shape[dim], sizes), axis=dim)
    return jnp.split(x, np.cumsum(sizes)[:-1], axis=dim)


def _pad(x: Array, widths: Sequence[int], value: Any = 0) -> Array:
    pairs = [(low, high, 0) for low, high in zip(widths[::2], widths[1::2], strict=True)]
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0)] * (x.ndim - len(pairs)) + pairs[::-1])


def _index(x: Array, indices: Sequence[Array | None]) -> Array:
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _gather(x: Array, dim: int, index: Array, sparse_grad: bool = False) -> Array:  # noqa: ARG001
    dim = dim % x.ndim
    within = tuple(slice(None) if axis == dim else slice(size) for axis, size in enumerate(index.shape))
    return jnp.take_along_axis(x[within], index, axis=dim)


def _embedding(weight: Array, index: Array, padding_idx: int = -1, *_: Any) -> Array:
    rows = jnp.take(weight, index, axis=0)  # an index outside the table gives NaN
    return jnp.where((index == padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)


# --- layers


def _convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Array:
    n = x.ndim - 2
    stride, padding, dilation, extra = (_spread(v, n) for v in (stride, padding, dilation, output_padding))
    spatial = "DHW"[-n:]
    options: dict[str, Any] = {
        "rhs_dilation": dilation,
        "feature_group_count": groups,
        "dimension_numbers": ("NC" + spatial, "OI" + spatial, "NC" + spatial),
    }
    if not transposed:
        y = jax.lax.conv_general_dilated(x, weight, stride, [(p, p) for p in padding], **options)
    else:  # the transpose of a strided convolution: the input spread out, the kernel reversed
        inputs, outputs, *kernel = weight.shape
        flipped = jnp.flip(weight, range(2, 2 + n)).reshape(groups, inputs // groups, outputs, *kernel)
        flipped = jnp.swapaxes(flipped, 1, 2).reshape(groups * outputs, inputs // groups, *kernel)
        reach = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        widths = [(r, r + e) for r, e in zip(reach, extra, strict=True)]
        y = jax.lax.conv_general_dilated(x, flipped, [1] * n, widths, lhs_dilation=stride, **options)
    return y if bias is None else y + _channels(bias, x.ndim)


def _channels(v: Array, ndim: int) -> Array:
    return v.reshape((1, -1) + (1,) * (ndim - 2))


def _affine(y: Array, weight: Array | None, bias: Array | None) -> Array:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _standardize(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    centered = x - jnp.mean(x, axes, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.mean(centered * centered, axes, keepdims=True) + eps)


def _batch_norm(x: Array, weight: Any, bias: Any, mean: Array, var: Array, momentum: float, eps: float) -> tuple[Array]:  # noqa: ARG001
    scaled = (x - _channels(mean, x.ndim)) * _channels(jax.lax.rsqrt(var + eps), x.ndim)
    return (_affine(scaled, *(None if v is None else _channels(v, x.ndim) for v in (weight, bias))),)


def _instance_norm(x: Array, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> tuple[Array]:  # noqa: ARG001
    scaled = _standardize(x, (0, *range(2, x.ndim)), eps)
    return (_affine(scaled, *(None if v is None else _channels(v, x.ndim) for v in (weight, bias))),)


def _layer_norm(x: Array, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Array]:
    return (_affine(_standardize(x, tuple(range(-len(shape), 0)), eps), weight, bias),)


def _group_norm(x: Array, weight: Any, bias: Any, n: int, c: int, size: int, groups: int, eps: float) -> tuple[Array]:
    scaled = _standardize(x.reshape(n, groups, c // groups * size), (2,), eps).reshape(x.shape)
    return (_affine(scaled, *(None if v is None else _channels(v, x.ndim) for v in (weight, bias))),)


def _windows(
    x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, spatial: int
) -> tuple[list[int], list[int], list[tuple[int, int]], list[int]]:
    """Window sizes, strides, paddings and dilations over all axes of x; a rounded-up last window overhangs."""
    kernel = _spread(kernel, spatial)
    stride = _spread(stride, spatial) if stride else kernel
    padding, dilation = _spread(padding, spatial), _spread(dilation, spatial)
    widths = []
    for size, k, s, p, d in zip(x.shape[-spatial:], kernel, stride, padding, dilation, strict=True):
        room = size + 2 * p - d * (k - 1) - 1
        steps = -(-room // s) if ceil_mode else room // s
        steps -= steps * s >= size + p  # a window must start inside the input or its left padding
        widths.append((p, max(p, steps * s + d * (k - 1) + 1 - size - p)))
    free = x.ndim - spatial
    return [1] * free + kernel, [1] * free + stride, [(0, 0)] * free + widths, [1] * free + dilation


def _max_pool(spatial: int) -> Callable[..., tuple[Array]]:
    def pool(
        x: Array, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False
    ) -> tuple[Array]:
        window, strides, widths, spread = _windows(x, kernel, stride, padding, dilation, ceil_mode, spatial)
        if max(spread) > 1:  # JAX has no transposed derivative of the dilated window
            return (_dilated_max(x, window, strides, widths, spread),)
        low = np.asarray(-np.inf, x.dtype)  # NumPy: JAX must see a constant to know that this is a maximum
        return (jax.lax.reduce_window(x, low, jax.lax.max, window, strides, widths),)

    return pool


def _dilated_max(x: Array, window: Any, strides: Any, widths: Any, dilation: Any) -> Array:
    padded = jnp.pad(x, widths, constant_values=-np.inf)
    reach = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
    shifted = [
        padded[tuple(slice(o * d, n - r + o * d, s) for o, d, n, r, s in zip(*axes, strict=True))]
        for offset in np.ndindex(*window)
        for axes in [(offset, dilation, padded.shape, reach, strides)]
    ]
    stacked = jnp.stack(shifted)
    return jnp.take_along_axis(stacked, jnp.argmax(stacked, axis=0, keepdims=True), axis=0)[0]


def _avg_pool(spatial: int) -> Callable[..., Array]:
    def pool(
        x: Array,
        kernel: Any,
        stride: Any = (),
        padding: Any = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Array:
        window, strides, widths, _ = _windows(x, kernel, stride, padding, (1,), ceil_mode, spatial)

        def total(v: Array, around: list[tuple[int, int]]) -> Array:
            return jax.lax.reduce_window(v, np.zeros((), v.dtype), jax.lax.add, window, strides, around)

        if divisor_override is not None:
            return total(x, widths) / divisor_override
        ones, overhang = jnp.ones(x.shape, x.dtype), widths
        if count_include_pad:  # padding counts as members of a window, the overhang of a rounded-up window does not
            member = [(low, low) for low, _ in widths]
            ones = jnp.pad(ones, member, constant_values=1)
            overhang = [(0, high - low) for low, high in widths]
        return total(x, widths) / total(ones, overhang)

    return pool


def _adaptive_avg_pool(x: Array, sizes: Sequence[int]) -> Array:
    for axis, new in enumerate(sizes, start=x.ndim - len(sizes)):
        old = x.shape[axis]
        mean = np.zeros((old, new))
        for i in range(new):
            mean[i * old // new : -(-(i + 1) * old // new), i] = 1
        x = _along(x, axis, mean / mean.sum(0))
    return x


def _nearest(x: Array, sizes: Any, scales: Any) -> Array:
    for axis, (new, ratio) in _resized(x, sizes, scales):
        source = np.minimum(np.floor(np.arange(new) * ratio), x.shape[axis] - 1)
        x = jnp.take(x, source.astype(int), axis=axis)
    return x


def _bilinear(x: Array, sizes: Any, align_corners: bool, scales: Any) -> Array:
    for axis, (new, ratio) in _resized(x, sizes, scales):
        old = x.shape[axis]
        if align_corners:
            place = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0)
        else:
            place = np.maximum((np.arange(new) + 0.5) * ratio - 0.5, 0)
        low = np.minimum(np.floor(place).astype(int), old - 1)
        weights = np.zeros((old, new))
        np.add.at(weights, (low, np.arange(new)), 1 - (place - low))
        np.add.at(weights, (np.minimum(low + 1, old - 1), np.arange(new)), place - low)
        x = _along(x, axis, weights)
    return x


def _resized(x: Array, sizes: Any, scales: Any) -> list[tuple[int, tuple[int, float]]]:
    """Per spatial axis its new size and the step in the old one, from sizes or from scale factors."""
    olds = x.shape[2:]
    if scales is None:
        pairs = [(new, old / new) for old, new in zip(olds, sizes, strict=True)]
    else:
        pairs = [(int(old * scale), 1 / scale) for old, scale in zip(olds, scales, strict=True)]
    return list(enumerate(pairs, start=2))


def _along(x: Array, axis: int, matrix: np.ndarray) -> Array:
    return jnp.moveaxis(jnp.moveaxis(x, axis, -1) @ jnp.asarray(matrix, x.dtype), -1, axis)


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


OPERATIONS: dict[str, Callable[..., Any]] = {
    # element by element
    "abs": jnp.abs,
    "acos": jnp.arccos,
    "acosh": jnp.arccosh,
    "add": _add,
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "atanh": jnp.arctanh,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_not": jnp.bitwise_not,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "ceil": jnp.ceil,
    "clamp": _clamp,
    "clamp_max": lambda x, high: _clamp(x, None, high),
    "clamp_min": _clamp,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "div": _div,
    "eq": jnp.equal,
    "erf": jax.lax.erf,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "floor_divide": jnp.floor_divide,
    "fmod": jnp.fmod,
    "ge": jnp.greater_equal,
    "gt": jnp.greater,
    "isinf": jnp.isinf,
    "isnan": jnp.isnan,
    "le": jnp.less_equal,
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "logical_and": jnp.logical_and,
    "logical_not": jnp.logical_not,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "lt": jnp.less,
    "masked_fill": lambda x, mask, value: jnp.where(mask, value, x),
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "mul": jnp.multiply,
    "ne": jnp.not_equal,
    "neg": jnp.negative,
    "pow": _pow,
    "reciprocal": lambda x: 1 / x,
    "remainder": jnp.remainder,
    "round": jnp.round,
    "rsqrt": jax.lax.rsqrt,
    "rsub": lambda a, b, alpha=1: _sub(b, a, alpha),
    "sign": jnp.sign,
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "sqrt": jnp.sqrt,
    "sub": _sub,
    "tan": jnp.tan,
    "tanh": jnp.tanh,
    "trunc": jnp.trunc,
    "where": jnp.where,
    # activations
    "_log_softmax": lambda x, dim, _: jax.nn.log_softmax(x, axis=dim),
    "_softmax": lambda x, dim, _: jax.nn.softmax(x, axis=dim),
    "celu": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1 / alpha),
    "elu": _elu,
    "gelu": _gelu,
    "hardtanh": _hardtanh,
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "mish": lambda x: x * jnp.tanh(_softplus(x)),
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": _softplus,
    # reductions
    "all": _reduction(jnp.all),
    "amax": _reduction(jnp.max),
    "amin": _reduction(jnp.min),
    "any": _reduction(jnp.any),
    "argmax": _reduction(jnp.argmax),
    "argmin": _reduction(jnp.argmin),
    "cumsum": _cumsum,
    "linalg_vector_norm": _vector_norm,
    "max": _extremum(jnp.max, jnp.argmax),
    "mean": _reduction(jnp.mean),
    "min": _extremum(jnp.min, jnp.argmin),
    "prod": _reduction(jnp.prod),
    "sum": _reduction(jnp.sum),
    "var": _var,
    "var_mean": lambda x, dim=None, correction=None, keepdim=False: (
        _var(x, dim, correction, keepdim),
        jnp.mean(x, _axes(dim), keepdims=keepdim),
    ),
    # products
    "addmm": _addmm,
    "baddbmm": _addmm,
    "bmm": jnp.matmul,
    "dot": jnp.matmul,
    "mm": jnp.matmul,
    "mv": jnp.matmul,
    # shapes and indices
    "_unsafe_index": _index,
    "_unsafe_view": jnp.reshape,
    "alias": _same,
    "cat": lambda parts, dim=0: jnp.concatenate(parts, axis=dim),
    "clone": _same,
    "constant_pad_nd": _pad,
    "copy": lambda old, new: jnp.broadcast_to(new, old.shape),
    "detach": jax.lax.stop_gradient,
    "embedding": _embedding,
    "expand": _expand,
    "flip": jnp.flip,
    "gather": _gather,
    "index": _index,
    "index_select": lambda x, dim, index: jnp.take(x, index, axis=dim),
    "lift_fresh_copy": _same,
    "permute": jnp.transpose,
    "repeat": jnp.tile,
    "select": lambda x, dim, index: x[_at(x, dim, index)],
    "select_scatter": lambda x, new, dim, index: x.at[_at(x, dim, index)].set(new),
    "slice": _slice,
    "slice_scatter": lambda x, new, dim=0, start=None, end=None, step=1: x.at[_at(x, dim, slice(start, end, step))].set(
        new
    ),
    "split_with_sizes": _split,
    "squeeze": _squeeze,
    "t": jnp.transpose,
    "transpose": jnp.swapaxes,
    "tril": jnp.tril,
    "triu": jnp.triu,
    "unsqueeze": jnp.expand_dims,
    "view": jnp.reshape,
    # new arrays
    "_to_copy": _same,
    "arange": jnp.arange,
    "empty": jnp.zeros,
    "full": jnp.full,
    "full_like": jnp.full_like,
    "ones": jnp.ones,
    "ones_like": jnp.ones_like,
    "scalar_tensor": jnp.asarray,
    "zeros": jnp.zeros,
    "zeros_like": jnp.zeros_like,
    # layers
    "_adaptive_avg_pool2d": _adaptive_avg_pool,
    "_adaptive_avg_pool3d": _adaptive_avg_pool,
    "_native_batch_norm_legit.no_stats": _instance_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "avg_pool1d": _avg_pool(1),
    "avg_pool2d": _avg_pool(2),
    "avg_pool3d": _avg_pool(3),
    "convolution": _convolution,
    "max_pool2d_with_indices": _max_pool(2),
    "max_pool3d_with_indices": _max_pool(3),
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "upsample_bilinear2d": _bilinear,
    "upsample_nearest1d": _nearest,
    "upsample_nearest2d": _nearest,
    "upsample_nearest3d": _nearest,
}
