"""Explicit options win over the profile, the profile over the row."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from conformance.cases import Case
from conformance.fixtures.options import Options
from conformance.fixtures.sizes import STEPS, WARMUP_STEPS, sizes
from conformance.hardware.profile import Drive, Machine, Profile

ROW = Case(
    id="row",
    model="resnet50_v1_5",
    mode="throughput",
    precision="fp32",
    dataset="dummy",
    batch_size=128,
    warmup_steps=50,
    steps=500,
    source="a README",
)
SIZES = ("batch_size", "warmup_steps", "steps")


def profile(**drive: Any) -> Profile:
    return Profile(name="small", description="a machine", machine=Machine(), drive=Drive(**drive))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    ("row", "driven", "explicit", "chosen", "by"),
    [
        (100, None, None, 100, None),
        (100, 40, None, 40, "by profile 'small'"),
        (100, 100, None, 100, None),
        (100, 200, None, 100, None),
        (100, None, 7, 7, "by option"),
        (100, None, 300, 300, "by option"),
        (100, 40, 7, 7, "by option"),
        (100, 40, 60, 60, "by option"),
        (100, 40, 100, 100, None),
    ],
)
def test_the_option_wins_over_the_profile_and_a_profile_only_makes_the_row_smaller(
    name: str, row: int, driven: int | None, explicit: int | None, chosen: int, by: str | None
) -> None:
    case = msgspec.structs.replace(ROW, **{name: row})
    found = sizes(case, profile(**{name: driven}), Options(**{name: explicit}))
    assert getattr(found, name) == chosen
    note = f"{name.replace('_', ' ')} is {chosen} {by}; the row has {row}."
    assert found.notes == ((note,) if by else ())
    others = [other for other in SIZES if other != name]
    assert [getattr(found, other) for other in others] == [getattr(case, other) for other in others]


def test_a_row_that_says_nothing_of_steps_has_those_of_the_recipes_program() -> None:
    found = sizes(msgspec.structs.replace(ROW, warmup_steps=None, steps=None), profile(), Options())
    assert (found.warmup_steps, found.steps, found.notes) == (WARMUP_STEPS, STEPS, ()) == (10, 50, ())


def test_the_least_time_is_the_profiles() -> None:
    assert sizes(ROW, profile(min_timed_s=2.5), Options()).min_timed_s == 2.5
