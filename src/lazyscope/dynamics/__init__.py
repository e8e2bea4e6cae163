"""Training: gradient descent on F_alpha, and the linearised descent in closed form."""

from lazyscope.dynamics.centred import Centred, CentredTraining, centred_training
from lazyscope.dynamics.descent import EarlyStop, gradient_descent
from lazyscope.dynamics.linearized import linearized_descent
from lazyscope.dynamics.run import BUDGET, DIVERGED, STOPPED, Run, Status, default_record

__all__ = [
    "BUDGET",
    "DIVERGED",
    "STOPPED",
    "Centred",
    "CentredTraining",
    "EarlyStop",
    "Run",
    "Status",
    "centred_training",
    "default_record",
    "gradient_descent",
    "linearized_descent",
]
