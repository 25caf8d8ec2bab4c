from __future__ import annotations

import itertools
from collections import Counter

import pytest

from conformance.judging.exit_status import exit_status
from conformance.records.exit_status import MEANINGS


@pytest.mark.parametrize(
    ("verdicts", "judged_any", "require_all", "pytest_status", "status"),
    [
        ({"inside": 3}, True, False, 0, 0),
        ({"inside": 3}, True, True, 0, 0),
        ({"inside": 3, "unjudged": 1}, True, False, 0, 0),
        ({"inside": 3, "unjudged": 1}, True, True, 0, 1),
        ({"inside": 3, "unstable": 1}, True, False, 0, 0),
        ({"inside": 3, "unstable": 1}, True, True, 0, 1),
        ({"inside": 3, "not run": 1}, True, False, 0, 0),
        ({"inside": 3, "not run": 1}, True, True, 0, 1),
        ({"inside": 3, "outside": 1}, True, False, 0, 1),
        ({"inside": 3, "outside": 1}, True, False, 1, 1),
        ({"inside": 3, "invalid": 1}, True, False, 0, 1),
        ({"invalid": 1}, False, False, 0, 1),
        ({"inside": 3}, True, False, 1, 1),
        ({"unjudged": 2}, False, False, 0, 5),
        ({"unjudged": 2}, False, True, 0, 1),
        ({"unjudged": 2}, True, False, 0, 0),
        ({"not run": 2}, False, False, 0, 5),
        ({"unstable": 2}, False, False, 0, 5),
        ({"unstable": 0, "outside": 0, "inside": 1}, True, True, 0, 0),
        ({}, False, False, 0, 5),
        ({}, False, True, 0, 5),
        ({}, False, False, 5, 5),
        ({"inside": 1}, True, False, 2, 2),
        ({"outside": 1}, True, False, 2, 2),
        ({"inside": 1}, True, False, 3, 3),
        ({"inside": 1}, True, False, 4, 4),
        ({"inside": 1}, True, False, 77, 1),
    ],
)
def test_the_table(
    verdicts: dict[str, int], judged_any: bool, require_all: bool, pytest_status: int, status: int
) -> None:
    assert exit_status(Counter(verdicts), judged_any, require_all, pytest_status) == status


@pytest.mark.parametrize(
    ("verdicts", "judged_any", "changes", "strict", "pytest_status", "status"),
    [
        ({"inside": 1}, True, {"same": 1}, False, 0, 0),
        ({"unjudged": 1}, False, {"same": 1}, False, 0, 0),
        ({"unjudged": 1}, False, {"improved": 1}, True, 0, 0),
        ({"unjudged": 1}, False, {"inconclusive": 1}, False, 0, 5),
        ({"unjudged": 1}, False, {"no baseline": 1}, True, 0, 5),
        ({"inside": 1}, True, {"no baseline": 1}, True, 0, 0),
        ({"inside": 1}, True, {"regressed": 1, "same": 9}, False, 1, 1),
        ({"inside": 1}, True, {"invalid": 1}, False, 0, 1),
        ({"inside": 1}, True, {"inconclusive": 1}, False, 0, 0),
        ({"inside": 1}, True, {"inconclusive": 1, "same": 3}, True, 0, 6),
        ({"inside": 1}, True, {"inconclusive": 1}, True, 1, 1),
        ({"inside": 1}, True, {"inconclusive": 1, "regressed": 1}, True, 0, 1),
        ({"outside": 1}, True, {"inconclusive": 1}, True, 0, 1),
        ({"inside": 1}, True, {"inconclusive": 1}, True, 2, 2),
        ({"inside": 1}, True, {"regressed": 1}, True, 3, 3),
        ({"inside": 1}, True, {"regressed": 1}, True, 4, 4),
    ],
)
def test_the_table_of_comparisons(
    verdicts: dict[str, int], judged_any: bool, changes: dict[str, int], strict: bool, pytest_status: int, status: int
) -> None:
    assert exit_status(verdicts, judged_any, False, pytest_status, changes, strict) == status


def test_every_outcome_has_a_status_of_its_own() -> None:
    assert len(MEANINGS) == len(set(MEANINGS.values())) == 7


def test_only_a_session_that_judged_and_failed_nothing_exits_0() -> None:
    words = ["inside", "outside", "unjudged", "unstable", "invalid", "not run"]
    for counts in itertools.product([0, 1], repeat=len(words)):
        verdicts = Counter(dict(zip(words, counts, strict=True)))
        for judged, require_all, status in itertools.product([True, False], [True, False], range(7)):
            found = exit_status(verdicts, judged, require_all, status)
            assert found in MEANINGS
            if found == 0:
                assert judged and status in (0, 5) and not verdicts["outside"] and not verdicts["invalid"]


def test_a_status_of_pytest_itself_is_understood() -> None:
    assert exit_status(Counter(inside=1), True, False, pytest.ExitCode.INTERRUPTED) == 2
    assert type(exit_status(Counter(inside=1), True, False, pytest.ExitCode.OK)) is int
