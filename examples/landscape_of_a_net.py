"""The loss around a trained net, with its starting point where it truly is.

    python examples/landscape_of_a_net.py

Two random directions, normalised unit by unit (Li et al. 2018), span the plane; the initial weights are projected onto
it. The contour below a projected point is not that point's loss: `project` gives its true loss and how far off the
plane it lies. Writes landscape.png.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

import lazyscope as ls


def main(path: str = "landscape.png") -> dict[str, float]:
    """Draw, and return the true losses."""
    jax.config.update("jax_enable_x64", True)
    keys = jax.random.split(jax.random.key(0), 3)
    problem = ls.teacher_student(keys[0], n=200, d=10, n_test=10)
    model = ls.two_layer(16, 10)
    params0 = model.init(keys[1], tau=0.3)
    step = ls.stable_step_size(model.apply, params0, problem, key=keys[1])
    trained = ls.gradient_descent(model.apply, params0, problem, step_size=0.5 * step, num_steps=2000).params

    def loss(params):
        return problem.loss(model.apply(params, problem.x), problem.y)

    directions = ls.landscape.filter_normalised(keys[2], trained, axes={"a": 0})
    surface = ls.landscape.plane(loss, trained, directions, extent=1.5, resolution=41)
    placed = ls.landscape.project([trained, params0], trained, directions, function=loss)
    plane = surface.to_xarray()
    np.log10(plane.value).plot.contourf(x="x", y="y", levels=20)
    plt.plot(*np.asarray(placed.coordinates).T, "wo-")
    plt.savefig(path)
    plt.close()
    found = {"trained": float(placed.values[0]), "start": float(placed.values[1]), "off": float(placed.off_plane[1])}
    print("loss {trained:.2e} at the centre, {start:.2e} at the start, {off:.2f} off the plane".format(**found))
    return found


if __name__ == "__main__":
    main()
