"""Is this training lazy, why, and what changes it: `diagnose`, `monitor`, `crossover`."""

from lazyscope.diagnose.crossover import Crossover, crossover
from lazyscope.diagnose.diagnosis import Diagnosis, diagnose
from lazyscope.diagnose.monitor import monitor
from lazyscope.diagnose.regime import Thresholds, regime

__all__ = ["Crossover", "Diagnosis", "Thresholds", "crossover", "diagnose", "monitor", "regime"]
