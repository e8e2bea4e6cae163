"""A sweep on your own machine: interrupt it, go on, extend it, give it workers.

    python examples/local_sweep.py                                       # 12 cells, each kept as it is finished
    python examples/local_sweep.py                                       # none is computed again
    python examples/local_sweep.py --taus .03 .1 .3 1 3 --seeds 5        # only what is new
    python examples/local_sweep.py --taus .03 .1 .3 1 3 --seeds 20 --workers 2

Ctrl-C, a kill or a power cut at any time: what is finished is in the store, and the same command goes on from there.
Workers compute with one thread each, whose last digits can differ: they take from the store what was computed so, by
workers or with NPROC=1 in the environment, and compute the rest anew.
A cell is a pure function of a key and of settings that returns a dict of arrays; `ls.sweep` compiles it once for all.
The key depends on the seed alone, so that cells which differ in tau share their data and their initial draw.
"""

import argparse
import sys

import jax
import numpy as np

import lazyscope as ls

WIDTH, D, N, STEPS = 50, 20, 200, 2000


def cell(key, tau):
    """A symmetrised two-layer net at scale tau and its linearisation: where they end, and how far apart."""
    key_data, key_init = jax.random.split(key)
    problem = ls.teacher_student(key_data, n=N, d=D, n_test=N)
    model = ls.two_layer(WIDTH, D)
    params0 = model.init(key_init, tau=tau, doubled=True)
    step = 0.1 / tau**2
    run = ls.gradient_descent(model.apply, params0, problem, step_size=step, num_steps=STEPS)
    lazy = ls.linearized_descent(model.apply, params0, problem, step_size=step, steps=[STEPS])
    f, f0 = (model.apply(params, problem.x_test) for params in (run.params, params0))
    return {
        "test_loss": run.test_loss[-1],
        "linearised": lazy.test_loss[-1],
        "gap": ls.trained_gap(f, lazy.observed[1][-1], f0, problem.y_test),
    }


def main(arguments=()):
    """Sweep, and print means over seeds; returns the Dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--taus", type=float, nargs="+", default=[0.1, 0.3, 1.0, 3.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 computes in this one")
    parser.add_argument("--store", default="sweep-store")
    chosen = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    reports = []

    def progress(done, total, what):
        reports.append((done, total))
        if sys.stderr.isatty():
            print(f"\r{done} of {total} cells {what}", end="\r" if done < total else "\n", file=sys.stderr)

    def swept(executor=None):
        options = {"key": jax.random.key(0), "seeds": chosen.seeds, "progress": progress}
        with ls.Store(chosen.store) as store:
            return ls.sweep(cell, {"tau": chosen.taus}, store=store, executor=executor, **options)

    if chosen.workers:
        with ls.executors.local(chosen.workers) as pool:
            found = swept(pool)
    else:
        found = swept()
    total = len(chosen.taus) * chosen.seeds
    print(f"{reports[0][0] if reports else total} of {total} cells were in the store")
    for tau in np.sort(found.tau.values):
        mean = found.sel(tau=tau).mean("seed")
        print(f"tau = {tau:<4g} test loss {float(mean.test_loss):.4f}, linearised {float(mean.linearised):.4f}, "
              f"g = {float(mean.gap):.3f}")  # fmt: skip
    return found


if __name__ == "__main__":  # workers import this script
    main(sys.argv[1:])
