"""Learning rates as data: a base for 256 images of the global batch, a linear warm-up, and how it falls after it.

Goyal et al. 2017 (arXiv:1706.02677) for the scaling and the warm-up, Loshchilov and Hutter 2016 (arXiv:1608.03983)
for the cosine. Steps count from 0, and ``rate`` gives the rate that the step of this number uses.
"""

import math
from typing import Any, Dict, NamedTuple, Tuple

from conformance.wire import Refused

DECAYS = {
    "cosine": "half a cosine from the peak at the end of the warm-up to 0 at the last epoch",
    "cosine_unshifted": "half a cosine counted from step 0, as Habana's: it drops where the warm-up ends",
    "steps": "the peak times a factor for each part of the epochs",
    "polynomial": "the peak down to the end, by a power of what is left after the warm-up",
}


class Schedule(NamedTuple):
    """One schedule, as a case names it; the fields after ``epochs`` belong to the decay they are of."""

    base: float  # peak for a global batch of 256 images; other batches get theirs in proportion
    decay: str  # one of DECAYS
    warmup_epochs: float
    epochs: float  # where cosine and polynomial end
    boundaries: Tuple[float, ...] = ()  # steps: epochs after which the next factor holds
    factors: Tuple[float, ...] = ()  # steps: one more than boundaries
    end: float = 0.0  # polynomial: the last rate
    power: float = 2.0  # polynomial


# IntelAI/models v1.6.1, mlperf_resnet; with --fine_tune its base is 0.1.
INTEL = Schedule(0.128, "steps", 5, 90, (30, 60, 80, 90), (1.0, 0.1, 0.01, 0.001, 1e-4))
# HabanaAI/Model-References 1.6.1, ResNeXt.
HABANA = Schedule(0.256, "cosine_unshifted", 8, 90)


class Plan(NamedTuple):
    """A schedule for one global batch and one size of training set, in steps."""

    schedule: Schedule
    peak: float
    warmup_steps: int
    steps: int  # where cosine and polynomial end
    boundaries: Tuple[int, ...]


def schedule(arguments: Dict[str, Any]) -> Schedule:
    """Return the schedule that a job's arguments describe; raises Refused for what is none."""
    _check(set(arguments) <= set(Schedule._fields), "names", sorted(arguments), "known are", Schedule._fields)
    given = {"decay": "cosine", **arguments}
    needed = [name for name in Schedule._fields if name not in Schedule._field_defaults and name not in given]
    _check(not needed, "lacks", needed, "needed are", ("base", "warmup_epochs", "epochs"))
    for name in ("boundaries", "factors"):
        given[name] = tuple(given.get(name, ()))
    made = Schedule(**given)
    _check(made.decay in DECAYS, "has the decay", made.decay, "known are", tuple(DECAYS))
    _check(made.base > 0, "has the base", made.base, "allowed is", "more than 0")
    _check(
        0 <= made.warmup_epochs < made.epochs,
        "has the warm-up epochs",
        made.warmup_epochs,
        "allowed is",
        "0 to less than its %g epochs" % made.epochs,
    )
    growing = list(made.boundaries) == sorted(set(made.boundaries))
    _check(growing, "has the boundaries", made.boundaries, "allowed are", "growing epochs")
    factors = len(made.boundaries) + 1 if made.decay == "steps" else 0
    _check(len(made.factors) == factors, "has the factors", made.factors, "their number must be", factors)
    for name, decay in (("boundaries", "steps"), ("end", "polynomial")):
        value = getattr(made, name)
        _check(made.decay == decay or not value, "has the " + name, value, "that belongs to the decay", decay)
    return made


def plan(schedule: Schedule, global_batch: int, train_images: int) -> Plan:
    """Return a schedule in steps; epochs become steps by cutting, as both recipes do.

    >>> plan(HABANA, 1024, 1281167)[1:4]
    (1.024, 10009, 112602)
    """
    per_epoch = train_images / global_batch
    return Plan(
        schedule,
        schedule.base * global_batch / 256,
        int(per_epoch * schedule.warmup_epochs),
        int(per_epoch * schedule.epochs),
        tuple(int(per_epoch * epoch) for epoch in schedule.boundaries),
    )


def rate(plan: Plan, step: int) -> float:
    """Return the learning rate of a step. At a boundary the old factor still holds, as in the recipes."""
    if step < plan.warmup_steps:
        return plan.peak * step / plan.warmup_steps
    decay, factors = plan.schedule.decay, plan.schedule.factors
    if decay == "steps":
        return plan.peak * factors[sum(step > boundary for boundary in plan.boundaries)]
    start = 0 if decay == "cosine_unshifted" else plan.warmup_steps
    done = min(1.0, (step - start) / max(1, plan.steps - start))
    if decay == "polynomial":
        end, left = plan.schedule.end, float((1.0 - done) ** plan.schedule.power)
        return end + (plan.peak - end) * left
    return plan.peak * 0.5 * (1.0 + math.cos(math.pi * done))


def _check(allowed: bool, what: str, found: Any, clause: str, known: Any) -> None:
    if not allowed:
        known = ", ".join(known) if isinstance(known, tuple) else known
        raise Refused(
            "The learning rate %s %r; %s %s." % (what, found, clause, known), "Change the schedule of the case."
        )
