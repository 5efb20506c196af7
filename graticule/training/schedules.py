"""How fast the weights move at each step of a run, and in which stage of it. Pure numbers; nothing here knows torch."""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from graticule.config import Train

BETA1 = 0.9  # Adam's own: Kingma & Ba, ICLR 2015, algorithm 1
# The defaults of torch.optim.lr_scheduler.OneCycleLR (Smith & Topin, arXiv 1708.07120), which report A used.
ONECYCLE_START, ONECYCLE_END = 1 / 25, 1 / 25 / 1e4
ONECYCLE_BETA1_EDGE, ONECYCLE_BETA1_TOP = 0.95, 0.85


class Step(NamedTuple):
    """What holds at one step: which stage, the learning rate, and the decay of Adam's first moment."""

    stage: int
    lr: float
    beta1: float


@dataclass(slots=True)
class Plateau:
    """Halves the rate when the loss has not improved for more than ``patience`` epochs.

    The rule of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with ``factor=0.5, patience=2``, as report B used it.
    """

    factor: float = 1.0
    best: float = math.inf
    bad: int = 0
    patience: int = 2
    threshold: float = 1e-4  # an improvement by less than this share is none

    def update(self, loss: float) -> None:
        """Take note of the loss of one more epoch."""
        if loss < self.best * (1 - self.threshold):
            self.best, self.bad = loss, 0
            return
        self.bad += 1
        if self.bad > self.patience:
            self.factor, self.bad = self.factor / 2, 0


class Schedule:
    """The stages of a run laid out over its steps.

    Args:
        wanted: the recipe's settings.
        steps_per_epoch: batches of one epoch.
    """

    def __init__(self, wanted: Train, steps_per_epoch: int) -> None:
        plan = wanted.plan
        self.wanted, self.plan = wanted, plan
        self._ends = list(itertools.accumulate(stage.epochs * steps_per_epoch for stage in plan))
        self.steps = self._ends[-1]
        # A schedule runs from the stage that names one to the next stage that does.
        starts = [i for i, stage in enumerate(plan) if i == 0 or stage.schedule or stage.warmup is not None]
        self._leg = [max(s for s in starts if s <= i) for i in range(len(plan))]

    def at(self, step: int, plateau: float = 1.0) -> Step:
        """The pace of a step, counted from 0 over the whole run.

        Args:
            plateau: the factor that the schedule ``plateau`` has come to.
        """
        number = min(bisect.bisect_right(self._ends, step), len(self.plan) - 1)
        leader = self.plan[self._leg[number]]
        kind = leader.schedule or self.wanted.schedule
        warmup = self.wanted.warmup if leader.warmup is None else leader.warmup
        begin, end = _span(self._leg, self._ends, number)
        factor, beta1 = rate(kind, step - begin, end - begin, warmup)
        if kind == "plateau":
            factor *= plateau
        return Step(number, factor * (self.plan[number].lr or self.wanted.lr), beta1)


def rate(kind: str, step: int, steps: int, warmup: float) -> tuple[float, float]:
    """The share of the peak rate at a step of a schedule, and Adam's first decay there.

    ``onecycle`` is torch's: a cosine up over ``warmup`` of the steps, a cosine down over the rest, with the momentum
    the other way round. The others rise in a straight line; then ``cosine`` falls to zero and the rest stay.
    """
    if kind == "onecycle":
        top = max(warmup * steps - 1, 1.0)  # a rise takes a step at least
        if step <= top:
            share = step / top
            return _between(ONECYCLE_START, 1.0, share), _between(ONECYCLE_BETA1_EDGE, ONECYCLE_BETA1_TOP, share)
        share = (step - top) / max(steps - 1 - top, 1.0)
        return _between(1.0, ONECYCLE_END, share), _between(ONECYCLE_BETA1_TOP, ONECYCLE_BETA1_EDGE, share)
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1), BETA1
    if kind == "cosine":
        return _between(1.0, 0.0, (step - rising) / max(steps - rising, 1)), BETA1
    return 1.0, BETA1


def _between(start: float, end: float, share: float) -> float:
    """Along half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _span(leg: Sequence[int], ends: Sequence[int], number: int) -> tuple[int, int]:
    """First step, and step after the last, of the schedule that a stage belongs to."""
    members = [i for i, leader in enumerate(leg) if leader == leg[number]]
    return (ends[members[0] - 1] if members[0] else 0), ends[members[-1]]
