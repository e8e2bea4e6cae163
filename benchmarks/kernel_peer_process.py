"""The peer's side of `kernel_peer.py`, run by the Python of its own environment: one line in, one line out.

    {"net": NAME, "n": N, "way": IMPLEMENTATION, "repeats": R, "keep": FILE or null}

is answered by the processor seconds of each of R calls after the first, which compiles; `keep` is where the kernel
goes. Threads are those of the environment variables that the parent sets.
"""

import json
import sys
import time

import jax
import kernel_nets
import neural_tangents as nt
import numpy as np

WAYS = {
    "Jacobian contraction": nt.NtkImplementation.JACOBIAN_CONTRACTION,
    "vector products": nt.NtkImplementation.NTK_VECTOR_PRODUCTS,
    "structured derivatives": nt.NtkImplementation.STRUCTURED_DERIVATIVES,
}


def main() -> None:
    """Answer until the input ends."""
    made = {}
    for line in sys.stdin:
        asked = json.loads(line)
        net = kernel_nets.NETS[asked["net"]]
        key = asked["net"], asked["way"]
        if key not in made:
            made[key] = jax.jit(
                nt.empirical_ntk_fn(
                    net.apply, trace_axes=(), diagonal_axes=(), vmap_axes=0, implementation=WAYS[asked["way"]]
                ),
                static_argnums=1,
            )
        x, params = jax.numpy.asarray(kernel_nets.inputs(net, asked["n"])), kernel_nets.weights(net)
        params = {name: jax.numpy.asarray(value) for name, value in params.items()}
        kernel = made[key](x, None, params).block_until_ready()
        if asked["keep"]:
            np.save(asked["keep"], np.asarray(kernel))
        costs = []
        for _ in range(asked["repeats"]):
            began = time.process_time()
            made[key](x, None, params).block_until_ready()
            costs.append(time.process_time() - began)
        print(json.dumps(costs), flush=True)


if __name__ == "__main__":
    main()
