"""Learning rates: the vectors of the published recipes, and what is no schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest

from conformance.schedules import DECAYS, HABANA, INTEL, Schedule, plan, rate, schedule
from conformance.wire import Refused

IMAGES = 1281167


@pytest.mark.parametrize(
    ("batch", "peak", "warmup_steps", "steps"),
    [
        (1024, 1.024, 10009, 112602),
        (128, 0.128, 80072, 900820),
        (256, 0.256, 40036, 450410),
        (8192, 8.192, 1251, 14075),
    ],
)
def test_habanas_schedule_has_its_steps(batch: int, peak: float, warmup_steps: int, steps: int) -> None:
    made = plan(HABANA, batch, IMAGES)
    assert (made.peak, made.warmup_steps, made.steps) == (pytest.approx(peak), warmup_steps, steps)


def test_habanas_cosine_is_not_shifted_and_drops_where_the_warm_up_ends() -> None:
    made = plan(HABANA, 1024, IMAGES)
    assert rate(made, 0) == 0.0
    assert rate(made, 1) == pytest.approx(1.0231e-4, abs=5e-9)
    assert rate(made, 10008) == pytest.approx(1.02389769, abs=5e-9)
    assert rate(made, 10009) == pytest.approx(1.00416625, abs=5e-9)
    assert rate(made, int(45 * IMAGES / 1024)) == pytest.approx(0.512, abs=1e-12)
    assert 0 < rate(made, 112601) < 1e-9
    assert rate(made, 112602) == rate(made, 120000) == 0.0


@pytest.mark.parametrize(
    ("base", "batch", "peak", "warmup_steps", "boundaries"),
    [
        (0.128, 1024, 0.512, 6255, (37534, 75068, 100091, 112602)),
        (0.128, 4096, 2.048, 1563, (9383, 18767, 25022, 28150)),
        (0.1, 4096, 1.6, 1563, (9383, 18767, 25022, 28150)),
        (0.128, 64, 0.032, 100091, (600547, 1201094, 1601458, 1801641)),
    ],
)
def test_intels_schedule_falls_after_its_boundaries(
    base: float, batch: int, peak: float, warmup_steps: int, boundaries: tuple[int, ...]
) -> None:
    made = plan(INTEL._replace(base=base), batch, IMAGES)
    assert (made.peak, made.warmup_steps, made.boundaries) == (pytest.approx(peak), warmup_steps, boundaries)
    assert rate(made, warmup_steps - 1) == pytest.approx(peak * (warmup_steps - 1) / warmup_steps)
    assert rate(made, warmup_steps) == pytest.approx(peak)
    for index, boundary in enumerate(boundaries):
        assert rate(made, boundary) == pytest.approx(peak * 10.0**-index)
        assert rate(made, boundary + 1) == pytest.approx(peak * 10.0 ** -(index + 1))


def test_the_default_cosine_starts_at_the_end_of_the_warm_up() -> None:
    made = plan(schedule({"base": 0.256, "warmup_epochs": 8, "epochs": 90}), 1024, IMAGES)
    assert made.schedule == Schedule(0.256, "cosine", 8, 90)
    assert rate(made, 10008) == pytest.approx(1.024 * 10008 / 10009)
    assert rate(made, 10009) == 1.024
    halfway = 10009 + (112602 - 10009) / 3
    assert rate(made, round(halfway)) == pytest.approx(1.024 * 0.5 * (1 + math.cos(math.pi / 3)), rel=1e-5)
    assert rate(made, 112602) == pytest.approx(0.0, abs=1e-12)


def test_a_polynomial_goes_from_the_peak_to_the_end() -> None:
    given = {"base": 2.0, "decay": "polynomial", "warmup_epochs": 2, "epochs": 12, "end": 1e-4}
    made = plan(schedule(given), 256, 2560)  # 10 steps an epoch
    assert [rate(made, step) for step in (0, 10, 20)] == [0.0, 1.0, 2.0]
    assert rate(made, 70) == pytest.approx(1e-4 + (2.0 - 1e-4) * 0.25)
    assert rate(made, 120) == rate(made, 500) == 1e-4


@pytest.mark.parametrize("decay", DECAYS)
def test_without_a_warm_up_training_begins_at_the_peak(decay: str) -> None:
    made = plan(Schedule(0.1, decay, 0, 3, factors=(1.0,) * (decay == "steps")), 256, 2560)
    assert rate(made, 0) == 0.1


def test_a_schedule_comes_back_from_json() -> None:
    as_json = {**INTEL._asdict(), "boundaries": [30, 60, 80, 90], "factors": [1.0, 0.1, 0.01, 0.001, 1e-4]}
    assert schedule(as_json) == INTEL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decay": "cosin"}, "has the decay 'cosin'; known are cosine, cosine_unshifted, steps, polynomial"),
        ({"warm_up": 3}, r"names \['base', 'epochs', 'warm_up', 'warmup_epochs'\]; known are base, decay"),
        ({"base": 0}, "has the base 0; allowed is more than 0"),
        ({"warmup_epochs": 90}, "has the warm-up epochs 90; allowed is 0 to less than its 90 epochs"),
        ({"decay": "steps"}, r"has the factors \(\); their number must be 1"),
        ({"factors": [1.0]}, r"has the factors \(1.0,\); their number must be 0"),
        ({"decay": "steps", "boundaries": [2, 1], "factors": [1, 1, 1]}, r"boundaries \(2, 1\); allowed are growing"),
        ({"boundaries": [1]}, r"has the boundaries \(1,\); that belongs to the decay steps"),
        ({"end": 0.1}, "has the end 0.1; that belongs to the decay polynomial"),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        schedule({"base": 0.256, "warmup_epochs": 8, "epochs": 90, **change})
    assert caught.value.hint and str(caught.value).count(". ") == 0


def test_a_schedule_without_epochs_is_refused() -> None:
    with pytest.raises(Refused, match=r"lacks \['epochs'\]; needed are base, warmup_epochs, epochs"):
        schedule({"base": 0.256, "warmup_epochs": 8})
