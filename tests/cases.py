"""One table of small models, each with its data, that the numerical tests share.

Every case has at most 20 examples and 300 parameters, so that dense Jacobians and Hessians are cheap oracles. Known
norms follow the function space of the library, ‖f‖² = (1/n) Σ_i Σ_c f_c(x_i)²; `None` means that the oracle has to be
computed (dense singular values, the best of 200 starts). Each model treats its examples independently.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lazyscope.models import Doubled, two_layer
from lazyscope.problems import Problem, cross_entropy


class SmallCase(NamedTuple):
    name: str
    apply: Callable[..., jax.Array]
    params: Any
    problem: Problem
    jacobian_norm: float | None = None
    hessian_norm: float | None = None


def relu_net_hessian_norm(params: Any, x: Any) -> float:
    """‖D²h‖ = max_i σmax(diag(1[X b_i > 0]) X)/√n of the plain two-layer ReLU net: a_i couples with b_i only."""
    x, b = np.asarray(x), np.asarray(params["b"])
    return float(max(np.linalg.norm(x[x @ row > 0], ord=2) for row in b if (x @ row > 0).any()) / np.sqrt(len(x)))


def quadratic(w: jax.Array, x: jax.Array) -> jax.Array:
    """h_k(w) = b_kᵀw + wᵀA_k w: the example x_k is the (p + 1, p) stack of b_k and A_k."""
    return x[:, 0] @ w + jnp.einsum("i,kij,j->k", w, x[:, 1:], w)


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _array(values: Any) -> jax.Array:
    return jnp.asarray(np.asarray(values, np.float64))


def _quadratic_case(
    name: str, b: np.ndarray, a: np.ndarray, w0: np.ndarray, hessian_norm: Any, targets: np.ndarray
) -> SmallCase:
    slopes = b + 2 * a @ w0
    return SmallCase(
        f"quadratic, {name}",
        quadratic,
        _array(w0),
        Problem(_array(np.concatenate([b[:, None], a], axis=1)), _array(targets)),
        float(np.linalg.norm(slopes, ord=2) / np.sqrt(len(b))),
        None if hessian_norm is None else float(hessian_norm),
    )


def _symmetric(seed: int, *shape: int) -> np.ndarray:
    a = _normal(seed, *shape, shape[-1])
    return (a + np.swapaxes(a, -1, -2)) / 2


def _quadratic_cases() -> list[SmallCase]:
    n, p = 8, 12
    b, y = _normal(1, n, p), _normal(2, n)
    # One matrix, scaled: |D²h[u, v]| = 2|s||uᵀMv|.
    s, m = _normal(3, n), _symmetric(4, p)
    one_matrix = 2 * np.linalg.norm(s) * np.linalg.norm(m, ord=2) / np.sqrt(n)
    # Rank one: 2|s| |e|² at u = v = e/|e|, with Dh of rank one as well (w0 = 0, all b_k parallel).
    e = _normal(5, p)
    rank_one = 2 * np.linalg.norm(s) * e @ e / np.sqrt(n)
    # Coupling of two halves: eigenvalues in pairs ±σ, and B(u, u) = 0 for u inside a half.
    c = _normal(6, p // 2, p // 2)
    halves = np.block([[np.zeros_like(c), c / 2], [c.T / 2, np.zeros_like(c)]])
    # Commuting: with t_j = u_j v_j of l1 norm at most 1, the largest |D t| is the largest column of D.
    diagonal = _normal(7, n, p)
    # One block of coordinates for each output: Σ_k (u_kᵀA_k v_k)² <= max_k ‖A_k‖² Σ_k |u_k|²|v_k|².
    blocks = np.zeros((n, 2 * n, 2 * n))
    small = _symmetric(8, n, 2)
    for k in range(n):
        blocks[k, 2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = small[k]
    block_norm = 2 * max(np.linalg.norm(a, ord=2) for a in small) / np.sqrt(n)
    zero = np.zeros(p)
    return [
        _quadratic_case("one matrix", b, s[:, None, None] * m, _normal(9, p), one_matrix, y),
        _quadratic_case("rank one", np.outer(s, e), s[:, None, None] * np.outer(e, e), zero, rank_one, y),
        _quadratic_case(
            "two halves", b, s[:, None, None] * halves, zero, np.linalg.norm(s) * np.linalg.norm(c, ord=2) / n**0.5, y
        ),
        _quadratic_case(
            "commuting",
            b,
            diagonal[:, :, None] * np.eye(p),
            _normal(10, p),
            2 * np.linalg.norm(diagonal, axis=0).max() / np.sqrt(n),
            y,
        ),
        _quadratic_case("blocks", _normal(11, n, 2 * n), blocks, _normal(12, 2 * n), block_norm, y),
        _quadratic_case("random", b, _symmetric(13, n, p), _normal(14, p), None, y),
    ]


def _two_layer_cases() -> list[SmallCase]:
    n, d, width = 16, 6, 10
    x, y = _array(_normal(20, n, d) / np.sqrt(d)), _array(_normal(21, n))
    problem = Problem(x, y)
    params = {"a": _array(_normal(22, width)), "b": _array(_normal(23, width, d))}
    cases = [
        SmallCase(f"two-layer {activation.__name__}", two_layer(width, d, activation).apply, params, problem)
        for activation in (jax.nn.relu, jnp.tanh, jax.nn.softplus)
    ]
    cases[0] = cases[0]._replace(hessian_norm=relu_net_hessian_norm(params, x))
    doubled = two_layer(2 * width, d, jnp.tanh).apply
    return [*cases, SmallCase("two-layer tanh, doubled", doubled, Doubled(params, params), problem)]


def deep_linear(params: list[jax.Array], x: jax.Array) -> jax.Array:
    for w in params:
        x = x @ w
    return x


def mlp(params: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b[None])
    w, b = params[-1]
    return x @ w + b[None]


def conv(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Two 3 x 3 convolutions with ReLU, a global mean, a linear head: images (n, 6, 6, 1), outputs (n, 2)."""
    numbers = ("NHWC", "HWIO", "NHWC")
    for name in ("first", "second"):
        x = jax.nn.relu(jax.lax.conv_general_dilated(x, params[name], (1, 1), "VALID", dimension_numbers=numbers))
    return x.mean(axis=(1, 2)) @ params["head"]


def attention(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """One softmax attention head with a residual connection, read out from the mean token: (n, tokens, d) to (n,)."""
    q, k, v = (x @ params[name] for name in ("query", "key", "value"))
    scores = jnp.einsum("nid,njd->nij", q, k) / np.sqrt(q.shape[-1])
    return (x + jax.nn.softmax(scores) @ v).mean(axis=1) @ params["head"]


def recurrent(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """The same two matrices at each of the time steps; the integer leaf `step` is a buffer, not a parameter."""
    state = jnp.zeros((x.shape[0], params["w"].shape[0]), x.dtype)
    for t in range(x.shape[1]):
        state = jnp.tanh(state @ params["w"] + x[:, t] @ params["u"])
    return state.sum(axis=1)


def images(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Outputs (n, 2, 3): two trailing axes."""
    return jnp.einsum("nd,dij->nij", jax.nn.softplus(x @ params["w"]), params["v"])


def _network_cases() -> list[SmallCase]:
    n = 10
    x = _array(_normal(30, n, 5))
    layers = [(5, 4), (4, 3)]
    weights = [
        (_array(_normal(31 + i, *s) / np.sqrt(s[0])), _array(0.1 * _normal(41 + i, s[1]))) for i, s in enumerate(layers)
    ]
    return [
        SmallCase(
            "deep linear",
            deep_linear,
            [_array(_normal(50 + i, *s) / np.sqrt(s[0])) for i, s in enumerate([(5, 4), (4, 4), (4, 2)])],
            Problem(x, _array(_normal(53, n, 2))),
        ),
        SmallCase("several outputs", mlp, weights, Problem(x, _array(_normal(54, n, 3)))),
        SmallCase("cross-entropy", mlp, weights, Problem(x, jnp.arange(n) % 3, loss=cross_entropy)),
        SmallCase(
            "two trailing axes",
            images,
            {"w": _array(_normal(55, 5, 4)), "v": _array(_normal(56, 4, 2, 3))},
            Problem(x, _array(_normal(57, n, 2, 3))),
        ),
        SmallCase(
            "conv net",
            conv,
            {
                "first": _array(_normal(58, 3, 3, 1, 3) / 3),
                "second": _array(_normal(59, 3, 3, 3, 4) / 5),
                "head": _array(_normal(60, 4, 2) / 2),
            },
            Problem(_array(_normal(61, n, 6, 6, 1)), _array(_normal(62, n, 2))),
        ),
        SmallCase(
            "attention",
            attention,
            {
                **{name: _array(_normal(63 + i, 4, 4) / 2) for i, name in enumerate(["query", "key", "value"])},
                "head": _array(_normal(66, 4)),
            },
            Problem(_array(_normal(67, n, 5, 4)), _array(_normal(68, n))),
        ),
        SmallCase(
            "shared weights",
            recurrent,
            {"w": _array(_normal(69, 4, 4) / 2), "u": _array(_normal(70, 3, 4)), "step": jnp.asarray(7)},
            Problem(_array(_normal(71, n, 4, 3)), _array(_normal(72, n))),
        ),
    ]


def _degenerate_cases() -> list[SmallCase]:
    n, p = 9, 6
    x, y, w = _normal(80, n, p), _array(_normal(81, n)), _array(_normal(82, p))
    return [
        SmallCase(
            "linear", lambda w, x: x @ w, w, Problem(_array(x), y), float(np.linalg.norm(x, ord=2) / np.sqrt(n)), 0.0
        ),
        SmallCase("zero", lambda w, x: 0 * (x @ w), w, Problem(_array(x), y), 0.0, 0.0),
        # Dh and D²h of rank one: h = s(x)·φ(e·w), here with φ = exp.
        SmallCase(
            "rank one",
            lambda w, x: x[:, 0] * jnp.exp(w.sum()),
            0.1 * w,
            Problem(_array(x), y),
            float(np.linalg.norm(x[:, 0]) / np.sqrt(n) * np.exp(0.1 * np.sum(w)) * np.sqrt(p)),
            float(np.linalg.norm(x[:, 0]) / np.sqrt(n) * np.exp(0.1 * np.sum(w)) * p),
        ),
        SmallCase(
            "one parameter, one example",
            lambda w, x: x[:, 0] * w["w"] ** 3,
            {"w": _array(0.5)},
            Problem(_array(x[:1]), y[:1]),
            float(abs(x[0, 0]) * 0.75),
            float(abs(x[0, 0]) * 3.0),
        ),
    ]


CASES: tuple[SmallCase, ...] = (*_two_layer_cases(), *_network_cases(), *_quadratic_cases(), *_degenerate_cases())
