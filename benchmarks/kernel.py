"""Is the tangent kernel of our nets, all outputs, cheaper here than by PyTorch, and how does it grow?

    python benchmarks/kernel.py

`tangent_kernel` in float32 on one core, one thread, after compilation, against PyTorch's three ways to the same
numbers: a loop of backward passes, one an example and output; `torch.func.jacrev` under `vmap` and a contraction; and
products of `torch.func.jvp` with `vjp` for every pair. Cost is processor time. Goal: twice the fastest of them.
Weights that are stacked or taken by a loop should cost what they cost apart: both halves of a doubled net at most 1.5
times two nets, and eight layers in a scan at most 1.5 times the same layers one by one.
The growth is that of VGG-11 at full width (9.2 million parameters) with 10 outputs, whose Jacobian of 32 images alone
would be 11 GiB: the exponent of the cost in n fitted over the last two doublings, from which the cost of 495 images
follows (an extrapolation, given as such).
"""

import sys
import time
from collections.abc import Callable

from measure import Ratio, conclude, interleaved, one_thread, ratio, seconds

one_thread()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import lazyscope as ls  # noqa: E402
from lazyscope.vision import vgg11  # noqa: E402

torch.set_num_threads(1)
WIDTHS = (64, 256, 256, 10)
Net = tuple[Callable, dict, dict]


def mlp() -> tuple[Callable, dict, Callable, dict[str, torch.Tensor]]:
    """Ours and PyTorch's fully connected net with the same weights."""
    model = ls.mlp(WIDTHS, bias=True)
    params = model.init(jax.random.key(0), jnp.sqrt(2 / jnp.array(WIDTHS[:-1])))
    layers: list[torch.nn.Module] = []
    for i, layer in enumerate(params["layers"]):
        linear = torch.nn.Linear(WIDTHS[i], WIDTHS[i + 1])
        _fill(linear, layer["w"], layer["b"])
        layers += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    return model.apply, params, *_functional(net)


def vgg(factor: float) -> tuple[Callable, dict, Callable, dict[str, torch.Tensor]]:
    """Ours and PyTorch's VGG-11 of the same shapes; weights differ, costs do not."""
    model = vgg11(factor=factor)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.init(jax.random.key(0), 2**0.5))
    layers: list[torch.nn.Module] = []
    before = 3
    for group in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for channels in group:
            after = round(channels * factor)
            layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.ReLU()]
            before = after
        layers.append(torch.nn.MaxPool2d(2))
    net = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(before, 10))
    return model.apply, params, *_functional(net)


def _fill(linear: torch.nn.Linear, weight: jax.Array, bias: jax.Array) -> None:
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.array(weight)))
        linear.bias.copy_(torch.from_numpy(np.array(bias)))


def _functional(net: torch.nn.Module) -> tuple[Callable, dict[str, torch.Tensor]]:
    params = {name: value.detach() for name, value in net.named_parameters()}

    def apply(params: dict, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, params, (x,))

    return apply, params


def backward_loop(apply: Callable, params: dict, x: torch.Tensor) -> np.ndarray:
    """Row by row of the Jacobian, then one product."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    rows = []
    for i in range(len(x)):
        out = apply(leaves, x[i : i + 1])[0]
        for c in range(len(out)):
            slopes = torch.autograd.grad(out[c], list(leaves.values()), retain_graph=True)
            rows.append(torch.cat([slope.reshape(-1) for slope in slopes]))
    jacobian = torch.stack(rows)
    return _shaped(jacobian @ jacobian.T, len(x))


def jacobian_contraction(apply: Callable, params: dict, x: torch.Tensor) -> np.ndarray:
    """`torch.func`: per-example Jacobians by vmap of jacrev, contracted leaf by leaf."""

    def single(params: dict, one: torch.Tensor) -> torch.Tensor:
        return apply(params, one[None])[0]

    rows = torch.func.vmap(torch.func.jacrev(single), (None, 0))(params, x)
    flat = [leaf.reshape(len(x), leaf.shape[1], -1) for leaf in rows.values()]
    return sum(torch.einsum("ikp,jlp->ijkl", u, u) for u in flat).numpy()


def jacobian_products(apply: Callable, params: dict, x: torch.Tensor) -> np.ndarray:
    """`torch.func`: for every pair of examples one Jacobian times the other's transpose, column by column."""

    def pair(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        def left(p: dict) -> torch.Tensor:
            return apply(p, one[None])[0]

        outputs, pull = torch.func.vjp(lambda p: apply(p, other[None])[0], params)
        basis = torch.eye(outputs.numel(), dtype=outputs.dtype)

        def column(v: torch.Tensor) -> torch.Tensor:
            return torch.func.jvp(left, (params,), (pull(v)[0],))[1]

        return torch.func.vmap(column)(basis).T

    row = torch.func.vmap(pair, (None, 0))
    return torch.stack([row(one, x) for one in x]).detach().numpy()


def _shaped(matrix: torch.Tensor, n: int) -> np.ndarray:
    k = len(matrix) // n
    return matrix.reshape(n, k, n, k).permute(0, 2, 1, 3).numpy()


PEERS = {
    "backward loop": backward_loop,
    "torch.func Jacobians": jacobian_contraction,
    "torch.func products": jacobian_products,
}


def case(name: str, net: tuple, x: np.ndarray, rounds: int, *, equal: bool, peers: tuple[str, ...]) -> list[Ratio]:
    """Ours against PyTorch's ways on one net; images are channels last for us, first for PyTorch."""
    apply, params, torch_apply, torch_params = net
    theirs = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x)
    ours = jnp.asarray(x)

    def kernel() -> jax.Array:
        return ls.tangent_kernel(apply, params, ours).block_until_ready()

    if equal:
        for peer in peers:
            np.testing.assert_allclose(kernel(), PEERS[peer](torch_apply, torch_params, theirs), rtol=1e-3, atol=1e-2)
    contenders = {"ours": lambda: seconds(kernel, time.process_time)}
    for peer in peers:
        contenders[peer] = lambda peer=peer: seconds(
            lambda: PEERS[peer](torch_apply, torch_params, theirs), time.process_time
        )
    costs = interleaved(contenders, rounds)
    fastest = min(peers, key=lambda peer: min(costs[peer]))
    return [
        ratio(name, f"{peer} over ours", costs[peer], costs["ours"], goal=2 if peer == fastest else None)
        for peer in peers
    ]


def structure(rounds: int) -> list[Ratio]:
    """A doubled net over two nets, and layers of a loop over the same layers apart."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((50, WIDTHS[0])).astype(np.float32))
    model, wide = ls.mlp(WIDTHS), jnp.asarray(np.random.default_rng(1).standard_normal((8, 64, 64)) / 8, jnp.float32)

    def loop(params: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, params)[0][:, :10]

    def apart(params: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in params:
            x = jnp.tanh(x @ w)
        return x[:, :10]

    single, doubled = (
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.init(jax.random.key(0), 0.1, doubled=both))
        for both in (False, True)
    )

    def cost(apply: Callable, params: object) -> Callable[[], float]:
        return lambda: seconds(lambda: ls.tangent_kernel(apply, params, x).block_until_ready(), time.process_time)

    cases = {
        "single": (model.apply, single),
        "doubled": (model.apply, doubled),
        "loop": (loop, wide),
        "apart": (apart, list(wide)),
    }
    costs = interleaved({name: cost(*pair) for name, pair in cases.items()}, rounds)
    two = [2 * one for one in costs["single"]]
    return [
        ratio("MLP 64-256-256-10, n = 50", "doubled over two of it", costs["doubled"], two, goal=1.5, at_most=True),
        ratio(
            "8 layers 64-64, n = 50", "in a loop over one by one", costs["loop"], costs["apart"], goal=1.5, at_most=True
        ),
    ]


def growth(net: tuple, sizes: tuple[int, ...]) -> dict[str, float]:
    """Seconds against n, the fitted exponent over the last two doublings, and what 495 images would cost by it."""
    apply, params = net[:2]
    times = []
    for n in sizes:
        x = jnp.asarray(_images(n))

        def kernel(x: jax.Array = x) -> jax.Array:
            return ls.blocked_tangent_kernel(apply, params, x).block_until_ready()

        kernel()
        times.append(min(seconds(kernel, time.process_time) for _ in range(2)))
    exponent = float(np.polyfit(np.log(sizes[-3:]), np.log(times[-3:]), 1)[0])
    found = {f"VGG-11, n = {n}, processor seconds": t for n, t in zip(sizes, times, strict=True)}
    full = times[-1] * (495 / sizes[-1]) ** exponent
    return found | {"exponent in n": exponent, "495 images, extrapolated, processor seconds": full}


def _images(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 32, 32, 3)).astype(np.float32)


def main(rounds: int) -> int:
    """Print the table and keep it; returns the number of goals missed."""
    x = np.random.default_rng(0).standard_normal((50, WIDTHS[0])).astype(np.float32)
    rows = case("MLP 64-256-256-10, n = 50", mlp(), x, rounds, equal=True, peers=tuple(PEERS))
    small = vgg(1 / 8)
    some = ("backward loop", "torch.func Jacobians")
    for n in (16, 64):
        rows += case(f"VGG-11 width 1/8, n = {n}", small, _images(n), rounds, equal=False, peers=some)
    rows += structure(rounds)
    numbers = growth(vgg(1), (4, 8, 16, 32))
    return conclude("kernel", rows, numbers)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5) > 0)
