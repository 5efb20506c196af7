"""What may be told of an answer: all of it, or a coarse picture."""

from dataclasses import dataclass, replace

import numpy as np

from graticule.geo import s2
from graticule.geo.sphere import Floats
from graticule.inference.claims import Place
from graticule.inference.decode import Fix
from graticule.inference.views import Cells, Exact, View
from graticule.serving.asks import Answer, Ask
from graticule.serving.blur import Coarse, Released
from graticule.serving.service import Model


@dataclass(frozen=True)
class Blurred:
    """What is released on a coarse scale."""

    coarse: Coarse
    told: Released
    fix: Fix

    def region(self, coverage: float) -> Cells | None:
        return self.coarse.region(self.told, coverage) if self.fix.calibrated else None

    def density(self) -> tuple[Cells, Floats] | None:
        return (self.told.cells, self.told.mass) if self.fix.calibrated else None

    def at(self, place: Place) -> tuple[float, float] | None:
        row = self.coarse.row_of(self.told, place)
        if not self.fix.calibrated:
            return None
        if row is None:
            return 0.0, 1.0
        mass = self.told.mass
        return float(mass[row] / s2.areas_km2(self.told.cells[[row]])[0]), float(mass[mass > mass[row]].sum())


def view_of(model: Model, answer: Answer, ask: Ask, claim: Place | None) -> View:
    """What may be told of a photo that was answered."""
    if answer.fix is None:
        raise answer.error or ValueError("there is no answer to look at")
    if model.coarse is None:
        return Exact(model.locator, answer.fix, answer.masses, answer.calibration)
    coarse, point = model.coarse, (answer.fix.lat, answer.fix.lon)
    if answer.masses is not None:
        told = coarse.summed(point, model.coarse_ground, answer.masses)
    elif answer.probability is not None:
        told = coarse.summed(point, model.coarse_partition, answer.probability)
    else:
        told = coarse.release(point, np.array(point[:1]), np.array(point[1:]), np.ones(1))
    fix = coarse.fix(told, answer.fix, ask.top)
    if ask.inside and fix.calibrated:
        fix = replace(fix, inside=coarse.inside(told, ask.inside))
    if claim is not None:
        fix = replace(fix, claim=coarse.weigh(told, claim, ask.within_km, fix.calibrated))
    if ask.max_error_km is not None:
        error_km = coarse.error_km(told, ask.min_probability) if fix.calibrated else None
        fix = fix.if_within(ask.max_error_km, ask.min_probability, error_km=error_km, seen=answer.seen)
    return Blurred(coarse, told, fix)
