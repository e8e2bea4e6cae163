"""Training: gradient descent, SGD and flow on F_alpha; descent and flow of the linearised model in closed form."""

from lazyscope.dynamics.centred import Centred, CentredTraining, centred_training
from lazyscope.dynamics.descent import EarlyStop, gradient_descent
from lazyscope.dynamics.epochs import EpochState, History, train_in_epochs
from lazyscope.dynamics.flow import gradient_flow
from lazyscope.dynamics.linearized import kernel_flow, linearized_descent
from lazyscope.dynamics.run import (
    BUDGET,
    DIVERGED,
    STOPPED,
    Integration,
    Resolution,
    Run,
    Status,
    default_record,
)
from lazyscope.dynamics.sgd import minibatches, sgd

__all__ = [
    "BUDGET",
    "DIVERGED",
    "STOPPED",
    "Centred",
    "CentredTraining",
    "EarlyStop",
    "EpochState",
    "History",
    "Integration",
    "Resolution",
    "Run",
    "Status",
    "centred_training",
    "default_record",
    "gradient_descent",
    "gradient_flow",
    "kernel_flow",
    "linearized_descent",
    "minibatches",
    "sgd",
    "train_in_epochs",
]
