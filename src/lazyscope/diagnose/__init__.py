"""Is this training lazy, why, and what changes it: `diagnose`, `monitor`, `crossover`."""

from lazyscope.diagnose.advice import Recommendation
from lazyscope.diagnose.crossover import Crossover, Evaluation, crossover
from lazyscope.diagnose.diagnosis import Diagnosis
from lazyscope.diagnose.ends import Ends, ends
from lazyscope.diagnose.layers import GroupRow
from lazyscope.diagnose.monitor import monitor
from lazyscope.diagnose.regime import Thresholds, regime, regimes
from lazyscope.diagnose.training import Scale
from lazyscope.diagnose.verdict import diagnose

__all__ = [
    "Crossover",
    "Diagnosis",
    "Ends",
    "Evaluation",
    "GroupRow",
    "Recommendation",
    "Scale",
    "Thresholds",
    "crossover",
    "diagnose",
    "ends",
    "monitor",
    "regime",
    "regimes",
]
