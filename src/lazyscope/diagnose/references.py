"""The reference diagnoses: what (g, j) models of known kind have, and between which of them another one lies.

Measured by `examples/normal_values.py`; docs/normal.md shows them with their settings.
"""

import math

REFERENCES: tuple[tuple[str, float, float], ...] = (
    ("a plain two-layer ReLU net, tau = 2", 10.2, 0.726),
    ("a symmetrised two-layer ReLU net, tau = 0.1", 0.363, 1.45),
    ("a symmetrised two-layer ReLU net, tau = 0.3", 0.154, 0.27),
    ("a symmetrised two-layer ReLU net, tau = 0.5", 0.0875, 0.126),
    ("a symmetrised two-layer ReLU net, tau = 2", 0.0172, 0.0339),
    ("a symmetrised two-layer ReLU net, tau = 2, weight decay", 0.0547, 0.185),
    ("a centred two-layer tanh net, alpha = 0.3", 0.102, 0.099),
    ("a centred two-layer tanh net", 0.0316, 0.0286),
    ("a centred two-layer tanh net, alpha = 10", 0.00318, 0.00284),
    ("an MLP of width 32, standard", 0.71, 1.0),
    ("an MLP of width 32, NTK", 0.694, 0.995),
    ("an MLP of width 128, standard", 0.554, 0.957),
    ("an MLP of width 128, NTK", 0.568, 0.971),
    ("an MLP of width 128, muP", 0.413, 0.988),
    ("a conv net of width 32, standard", 0.396, 0.959),
    ("a conv net of width 32, NTK", 0.487, 1.01),
    ("a conv net of width 128, standard", 0.336, 0.864),
    ("a conv net of width 128, NTK", 0.384, 1.13),
    ("a conv net of width 128, muP", 0.383, 1.34),
    ("an attention block of width 32, standard", 0.458, 0.881),
    ("an attention block of width 32, NTK", 0.462, 0.863),
    ("an attention block of width 128, standard", 0.513, 0.87),
    ("an attention block of width 128, NTK", 0.451, 0.811),
    ("an attention block of width 128, muP", 0.448, 0.859),
    ("an MLP of width 128, Adam", 0.604, 0.715),
    ("an MLP that classifies", 0.441, 1.43),
    ("an MLP that classifies, weight decay", 0.363, 1.11),
    ("an MLP that classifies, Adam", 0.475, 1.59),
    ("an MLP that classifies, AdamW", 0.408, 1.29),
    ("fine-tuning of all weights", 0.293, 0.853),
    ("fine-tuning by LoRA", 0.61, 1.21),
)
LINEAR = 1e-9  # g and j below which nothing but rounding is left


def placed(gap: float, differential: float) -> str:
    """What is like (g, j), in words: the two reference diagnoses nearest to it on a logarithmic scale.

    "" where g or j is not finite, or one of them alone is 0.
    """
    if max(gap, differential) <= LINEAR:
        return "a linear model"
    return " and ".join(f"{name} (g {g:.2g}, j {j:.2g})" for name, g, j in nearest(gap, differential)[:2])


def nearest(gap: float, differential: float) -> tuple[tuple[str, float, float], ...]:
    """The references, those nearest to (g, j) on a logarithmic scale first; none where `placed` is ""."""
    if not (gap > 0 and differential > 0 and math.isfinite(gap) and math.isfinite(differential)):
        return ()

    def far(reference: tuple[str, float, float]) -> float:
        return math.hypot(math.log(gap / reference[1]), math.log(differential / reference[2]))

    return tuple(sorted(REFERENCES, key=far))
