"""Is the tangent kernel, all outputs, cheaper here than by neural-tangents?

    python benchmarks/kernel_peer.py [ROUNDS] [--python PATH]

neural-tangents 0.6.5 (archived) runs on JAX up to 0.4.20, so it has an environment of its own, made once under the
user's cache folder by Python 3.11 from the pins below, and a process of its own. Both take turns on the same nets
(`kernel_nets.py`) with the same weights and inputs, float32, one thread, processor time of a call after compilation;
ours is called as a user does, through the door. Of the peer's implementations the fastest on a case is taken; its
vector products take one product an output and pair of inputs, and are tried on the smallest case only. Kernels are
equal to float32 rounding or nothing is timed. Goal: 1.5 times the peer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import Ratio, conclude, interleaved, one_thread, ratio, seconds

one_thread()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from kernel_nets import CASES, NETS, inputs, weights  # noqa: E402

import lazyscope as ls  # noqa: E402

PEER = "neural-tangents==0.6.5"
PINS = ("jax==0.4.20", "jaxlib==0.4.20", "numpy<2", "scipy<1.13")  # it names no upper ends itself
WAYS = ("structured derivatives", "Jacobian contraction", "vector products")
PROCESS = Path(__file__).with_name("kernel_peer_process.py")
GOAL = 1.5


def environment() -> Path:
    """The Python of the peer's environment, made where there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "lazyscope" / "benchmarks" / PEER.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run(["python3.11", "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER, *PINS], check=True
        )
        (folder / "ready").touch()
    return python


class Peer:
    """The other process: `ask` runs a case there."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process

    def ask(self, net: str, n: int, way: str, repeats: int, keep: Path | None = None) -> list[float]:
        """Processor seconds of each of so many calls."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"net": net, "n": n, "way": way, "repeats": repeats, "keep": str(keep) if keep else None}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended at {asked}: its message is above")
        return json.loads(line)


@contextmanager
def peer(python: Path) -> Iterator[Peer]:
    """A process of the peer, ended with the block."""
    with subprocess.Popen([python, PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Peer(process)
        assert process.stdin is not None
        process.stdin.close()


def case(other: Peer, name: str, n: int, rounds: int, keep: Path) -> tuple[Ratio, dict[str, float]]:
    """Ours against the peer's fastest way on one net and one number of inputs."""
    net = NETS[name]
    params = {leaf: jnp.asarray(value) for leaf, value in weights(net).items()}
    x = jnp.asarray(inputs(net, n))

    def kernel() -> jax.Array:
        return ls.tangent_kernel(net.apply, params, x).block_until_ready()

    ours, first = np.asarray(kernel()), {}
    for way in WAYS if (name, n) == CASES[0] else WAYS[:-1]:
        first[way] = min(other.ask(name, n, way, 1, keep))
        np.testing.assert_allclose(ours, np.load(keep), rtol=1e-4, atol=1e-5 * float(np.abs(ours).max()))
    fastest = min(first, key=lambda way: first[way])
    repeats = max(1, round(0.2 / first[fastest]))
    costs = interleaved(
        {
            "ours": lambda: statistics.median(seconds(kernel, time.process_time) for _ in range(repeats)),
            "peer": lambda: statistics.median(other.ask(name, n, fastest, repeats)),
        },
        rounds,
    )
    title = f"{name}, n = {n}"
    found = {f"{title}: {who}, ms": 1e3 * statistics.median(costs[who]) for who in costs}
    found |= {f"{title}: neural-tangents, {way}, ms": 1e3 * cost for way, cost in first.items()}
    return ratio(title, f"neural-tangents ({fastest}) over ours", costs["peer"], costs["ours"], goal=GOAL), found


def main() -> int:
    """Print the table and keep it; returns the number of goals missed."""
    given = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    given.add_argument("rounds", nargs="?", type=int, default=5)
    given.add_argument("--python", type=Path, help="the Python of an environment that has the peer already")
    options = given.parse_args()
    rows, numbers = [], {}
    with tempfile.TemporaryDirectory() as folder, peer(options.python or environment()) as other:
        for name, n in CASES:
            row, found = case(other, name, n, options.rounds, Path(folder) / "kernel.npy")
            rows.append(row)
            numbers |= found
    return conclude("kernel_peer", rows, numbers)


if __name__ == "__main__":
    sys.exit(main() > 0)
