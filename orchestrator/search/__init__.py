"""Which trials a search runs, how far, and which of them go on. Pure: the same scores give the same decisions.

Trials are run in segments: replicate 1 of trial 3 up to step 50. Rungs are synchronous: what goes on is decided when every
trial of a batch has been scored at a rung, so the order in which segments end, and how many run at once, change nothing. A
segment whose outcome is already known (from before a crash) is not run again. Only `Asynchronous` decides by the order in which
segments end.
"""

from orchestrator.search.asynchronous import Asynchronous
from orchestrator.search.conductor import Conductor, Rules
from orchestrator.search.evolution import Evolution
from orchestrator.search.objectives import Objective
from orchestrator.search.schedulers import Scheduler, milestones, planned_steps, promoted
from orchestrator.search.trial import Change, Direction, Key, Outcome, Segment, Trial, interval, training_seed

__all__ = [
    "Asynchronous",
    "Change",
    "Conductor",
    "Direction",
    "Evolution",
    "Key",
    "Objective",
    "Outcome",
    "Rules",
    "Scheduler",
    "Segment",
    "Trial",
    "interval",
    "milestones",
    "planned_steps",
    "promoted",
    "training_seed",
]
