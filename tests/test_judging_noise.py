from __future__ import annotations

import math

import pytest

from conformance.errors import SubjectFailed
from conformance.hardware.profile import Counts
from conformance.judging.noise import noise
from conformance.records import Noise

LIMITS = Counts(max_steal_share=0.02, max_foreign_share=0.05, max_spread=0.10, max_ceiling_drift=0.10)
QUIET: dict[str, float | None] = {
    "steal_s": 0.1,
    "busy_s": 19.5,
    "own_s": 19.1,
    "elapsed_s": 10.0,
    "cpus": 2,
    "throttle_events": 0,
    "ceiling_before_flop_per_s": 300e9,
    "ceiling_after_flop_per_s": 315e9,
}


def test_a_quiet_machine_gives_shares_and_no_reasons() -> None:
    found = noise(QUIET, 0.03, LIMITS)
    assert found.reasons == ()
    assert found.steal_share == pytest.approx(0.005)
    assert found.foreign_share == pytest.approx(0.02)
    assert found.ceiling_drift == pytest.approx(15 / 315)
    assert (found.spread, found.throttle_events) == (0.03, 0)


@pytest.mark.parametrize(
    ("change", "spread", "reason"),
    [
        ({"steal_s": 1.0}, 0.03, "the hypervisor took 5.0 % of the cores' time, at most 2.0 % counts"),
        ({"busy_s": 20.6}, 0.03, "other processes took 7.5 % of the cores' time, at most 5.0 % counts"),
        ({}, 0.15, "the steps spread by 15.0 % (IQR / median), at most 10.0 % counts"),
        (
            {"ceiling_after_flop_per_s": 240e9},
            0.03,
            "the ceiling moved by 20.0 % between start and end, at most 10.0 % counts",
        ),
        (
            {"ceiling_after_flop_per_s": 375e9},
            0.03,
            "the ceiling moved by 20.0 % between start and end, at most 10.0 % counts",
        ),
        ({"throttle_events": 3}, 0.03, "the CPU throttled 3 times"),
    ],
)
def test_each_limit_that_was_passed_is_a_reason(change: dict[str, float], spread: float, reason: str) -> None:
    assert noise({**QUIET, **change}, spread, LIMITS).reasons == (reason,)


def test_all_reasons_are_told() -> None:
    loud = {**QUIET, "steal_s": 5.0, "busy_s": 30.0, "throttle_events": 1, "ceiling_after_flop_per_s": 1e9}
    assert len(noise(loud, 0.5, LIMITS).reasons) == 5


def test_a_limit_that_is_met_exactly_counts_and_one_step_beyond_does_not() -> None:
    assert noise(QUIET, 0.10, LIMITS).reasons == ()
    beyond = math.nextafter(0.10, 1)
    assert noise(QUIET, beyond, LIMITS).reasons == (
        f"the steps spread by {beyond!r} (IQR / median), at most 0.1 counts",
    )


@pytest.mark.parametrize("key", QUIET)
def test_a_reading_that_is_none_gives_no_share_of_it(key: str) -> None:
    found = noise({**QUIET, key: None}, None, LIMITS)
    expected = {
        "steal_s": {"steal_share"},
        "busy_s": {"foreign_share"},
        "own_s": {"foreign_share"},
        "elapsed_s": {"steal_share", "foreign_share"},
        "cpus": {"steal_share", "foreign_share"},
        "throttle_events": {"throttle_events"},
        "ceiling_before_flop_per_s": {"ceiling_drift"},
        "ceiling_after_flop_per_s": {"ceiling_drift"},
    }[key]
    named = ("steal_share", "foreign_share", "throttle_events", "ceiling_drift")
    assert {name for name in named if getattr(found, name) is None} == expected
    assert found.reasons == ()


def test_nothing_read_is_nothing_known() -> None:
    assert noise({}, None, LIMITS) == Noise()


@pytest.mark.parametrize("change", [{"elapsed_s": 0.0}, {"cpus": 0}])
def test_no_time_has_no_shares(change: dict[str, float]) -> None:
    found = noise({**QUIET, **change}, 0.0, LIMITS)
    assert (found.steal_share, found.foreign_share) == (None, None)


def test_a_ceiling_of_nothing_has_no_drift() -> None:
    nothing = {**QUIET, "ceiling_before_flop_per_s": 0.0, "ceiling_after_flop_per_s": 0.0}
    assert noise(nothing, 0.0, LIMITS).ceiling_drift is None


def test_counters_that_ran_backwards_are_no_noise() -> None:
    found = noise({**QUIET, "steal_s": -0.01, "busy_s": 19.0}, 0.0, LIMITS)
    assert (found.steal_share, found.foreign_share) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"steel_s": 1.0},
            "The subject's noise reading does not fit: Object contains unknown field `steel_s`.",
        ),
        (
            {"cpus": "two"},
            "The subject's noise reading does not fit: Expected `int | null`, got `str` - at `$.cpus`.",
        ),
    ],
)
def test_a_reading_of_another_shape_is_told(change: dict[str, object], message: str) -> None:
    with pytest.raises(SubjectFailed) as error:
        noise({**QUIET, **change}, 0.0, LIMITS)  # type: ignore[dict-item]
    assert error.value.message == message
    assert "different versions" in error.value.hint
