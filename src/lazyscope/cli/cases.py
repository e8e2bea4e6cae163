"""Built-in cases: the two-layer net of both papers in the three situations that are worth comparing."""

import jax

from lazyscope.papers.student import Protocol, setup
from lazyscope.problems import Case


def _case(*, tau: float, doubled: bool) -> Case:
    model, params0, problem = setup(jax.random.key(0), Protocol(doubled=doubled))
    return Case(model.apply, jax.tree.map(lambda leaf: tau * leaf, params0), problem, gates=model.gates)


def symmetrised() -> Case:
    """Symmetrised, tau = 2: lazy."""
    return _case(tau=2.0, doubled=True)


def plain() -> Case:
    """Plain, tau = 2: not lazy, though kappa, gate stability and the kernel's cosine all look it."""
    return _case(tau=2.0, doubled=False)


def rich() -> Case:
    """Symmetrised, tau = 0.1: learns features."""
    return _case(tau=0.1, doubled=True)
