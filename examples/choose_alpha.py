"""Which output scale makes a model lazy, and where does it stop being lazy?

    python examples/choose_alpha.py

`kappa` predicts: `ls.alpha_for` gives, in closed form, the smallest alpha at which it has a given value. Consequences
decide: `ls.crossover` trains at trial scales and finds, by bisection, the alpha at which training stops being lazy,
where g = .05 or j = .1. The model is centred, so that its output starts at zero; without that no scale would make kappa
small. Here descent is ours, and its step follows alpha; a trainer of your own takes a third argument that tells it how
(`ls.Scale`).
"""

import jax

import lazyscope as ls


def main() -> tuple[float, ls.Crossover]:
    """Print both scales."""
    jax.config.update("jax_enable_x64", True)
    keys = jax.random.split(jax.random.key(0), 4)
    problem = ls.teacher_student(keys[0], n=60, d=6, n_test=60)
    model = ls.two_layer(20, 6, jax.numpy.tanh)
    params0 = model.init(keys[1])
    centred = ls.center(model.apply, params0)
    predicted = ls.alpha_for(centred, params0, problem, kappa=0.05, key=keys[2])
    found = ls.crossover(ls.Case(centred, params0, problem), key=keys[3])
    print(f"kappa = 0.05 at alpha = {predicted:.3g}")
    print(found)
    return predicted, found


if __name__ == "__main__":
    main()
