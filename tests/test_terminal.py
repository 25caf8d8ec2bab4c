"""What a run shows and how it ends: markers that exist, verdicts counted, a footer, an exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from launch_examples import xeon
from report_examples import accuracy, header

from conformance.errors import CannotRun, UsageError
from conformance.fixtures.inference import require_native
from conformance.fixtures.options import Options
from conformance.fixtures.session import Session
from conformance.fixtures.terminal import LETTERS, Tally, check_marker_expression, finish
from conformance.records import GRAVITY
from conformance.records.exit_status import MEANINGS
from conformance.records.run_file import RunWriter, read_run

LINES = (
    "fp32: cases in fp32",
    "int8: cases in int8",
    "latency: online inference",
    "skipif(condition, ..., *, reason=...): skip the given test",
    "usefixtures(fixturename1, fixturename2, ...): mark tests",
    "bare",
)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "int8",
        "not int8",
        "fp32 and latency",
        "(fp32 or int8) and not (latency or (bare and not fp32))",
        "((fp32))",
        "bare or usefixtures",
        "skipif(reason='int9')",
        "skipif(reason='not here (yet)') and not (int8 or skipif(reason=\"a b\", strict=True))",
    ],
)
def test_an_expression_of_known_markers_is_taken(expression: str) -> None:
    check_marker_expression(expression, LINES)


@pytest.mark.parametrize(
    ("expression", "unknown", "near"),
    [
        ("int9", "int9", " (did you mean 'int8'?)"),
        ("not int9", "int9", " (did you mean 'int8'?)"),
        ("fp32 and (int8 or not (latncy))", "latncy", " (did you mean 'latency'?)"),
        ("(fp32 or int8) and not (bare and (quick or fp32))", "quick", ""),
        ("slow(reason='int8')", "slow", ""),
        ("int8 or zzz_1", "zzz_1", ""),
    ],
)
def test_a_marker_that_does_not_exist_is_refused_however_deep_it_stands(
    expression: str, unknown: str, near: str
) -> None:
    with pytest.raises(UsageError) as error:
        check_marker_expression(expression, LINES)
    known = "bare, fp32, int8, latency, skipif, usefixtures"
    assert error.value.message == f"Unknown marker {unknown!r}{near}; known: {known}."
    assert error.value.hint == "See `pytest --markers`."


def report(outcome: str = "passed", when: str = "call", **properties: object) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="suites/inference/test_accuracy.py::test_accuracy[the-case]",
        location=("suites/inference/test_accuracy.py", 1, "test_accuracy"),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=None,
        when=when,  # type: ignore[arg-type]
        user_properties=list(properties.items()),
    )


@pytest.mark.parametrize(
    ("verdict", "letter", "word"),
    [
        ("inside", ".", "INSIDE"),
        ("outside", "F", "OUTSIDE"),
        ("unjudged", "u", "UNJUDGED"),
        ("unstable", "~", "UNSTABLE"),
        ("invalid", "I", "INVALID"),
        ("not run", "n", "NOT-RUN"),
    ],
)
@pytest.mark.parametrize("failed", [True, False])
def test_a_case_shows_the_letter_and_the_word_of_its_verdict(
    verdict: str, letter: str, word: str, failed: bool
) -> None:
    status = Tally().status(report("failed" if failed else "passed", verdict=verdict))
    assert status is not None
    category, shown, (said, markup) = status
    assert (category, shown, said) == ("failed" if failed else verdict, letter, word)
    assert markup[{"inside": "green", "outside": "red", "invalid": "red"}.get(verdict, "red" if failed else "yellow")]


def test_every_verdict_has_a_letter_of_its_own() -> None:
    assert set(LETTERS) == set(GRAVITY) and len(set(LETTERS.values())) == len(GRAVITY)


@pytest.mark.parametrize(
    "other",
    [
        report(),
        report("failed"),
        report(when="setup", verdict="inside"),
        report(when="teardown", verdict="inside"),
        report(verdict=7),
        pytest.CollectReport("suites/test_x.py", "failed", "no table", None),
    ],
    ids=["passed", "failed", "setup", "teardown", "number", "collect"],
)
def test_what_is_no_judged_case_is_left_to_pytest(other: Any) -> None:
    assert Tally().status(other) is None


def test_the_tally_counts_verdicts_and_keeps_what_was_shown() -> None:
    tally = Tally()
    tally.pytest_runtest_logreport(report(verdict="inside", judged=2, shown="top-1 0.98"))
    tally.pytest_runtest_logreport(report("skipped", verdict="not run", judged=0, reason="No data."))
    tally.pytest_runtest_logreport(report("failed", verdict="not run", usage_error="No graph."))
    tally.pytest_runtest_logreport(report("failed", fault="The disk is full."))
    tally.pytest_runtest_logreport(report(when="teardown", verdict="inside", judged=2, usage_error="again"))
    tally.pytest_runtest_logreport(report())
    assert tally.verdicts == {"inside": 1, "not run": 2}
    assert tally.judged == 2
    assert tally.rows == [
        ("the-case", "inside", "top-1 0.98", ""),
        ("the-case", "not run", "", "No data."),
        ("the-case", "not run", "", ""),
    ]
    assert (tally.usage_errors, tally.faults, tally.uncollected) == (["No graph."], ["The disk is full."], 0)


def session(tmp_path: Path, **options: object) -> Session:
    chosen = Options(output_dir=str(tmp_path), **options)  # type: ignore[arg-type]
    return Session(chosen, tmp_path, ("pytest",), header().run, None)


def tallied(*reports: pytest.TestReport | pytest.CollectReport) -> Tally:
    tally = Tally()
    for one in reports:
        if isinstance(one, pytest.CollectReport):
            tally.pytest_collectreport(one)
        else:
            tally.pytest_runtest_logreport(one)
    return tally


INSIDE = report(verdict="inside", judged=1)
UNJUDGED, UNSTABLE = report(verdict="unjudged", judged=0), report(verdict="unstable", judged=0)
NOT_RUN = report("skipped", verdict="not run", judged=0)
OUTSIDE, INVALID = report("failed", verdict="outside", judged=1), report("failed", verdict="invalid", judged=0)
REFUSED, FAULT = report("failed", verdict="not run", usage_error="No graph."), report("failed", fault="Disk full.")
UNCOLLECTED = pytest.CollectReport("suites/test_x.py", "failed", "no table", None)


@pytest.mark.parametrize(
    ("reports", "require_all", "pytest_status", "status"),
    [
        ((INSIDE,), False, 0, 0),
        ((INSIDE, UNJUDGED, UNSTABLE, NOT_RUN), False, 0, 0),
        ((INSIDE, UNJUDGED), True, 0, 1),
        ((INSIDE, UNSTABLE), True, 0, 1),
        ((INSIDE, NOT_RUN), True, 0, 1),
        ((INSIDE, OUTSIDE), False, 1, 1),
        ((INSIDE, INVALID), False, 1, 1),
        ((OUTSIDE,), False, 1, 1),
        ((INSIDE,), False, 1, 1),  # a test that failed without a verdict
        ((NOT_RUN,), False, 0, 5),
        ((UNJUDGED, UNSTABLE), False, 0, 5),
        ((), False, 5, 5),
        ((INSIDE, OUTSIDE), False, 2, 2),
        ((INSIDE,), False, 3, 3),
        ((), False, 4, 4),
        ((INSIDE, REFUSED), False, 1, 4),
        ((REFUSED,), True, 1, 4),
        ((INSIDE, REFUSED), False, 2, 2),
        ((INSIDE, FAULT), False, 2, 3),  # a fault stops the session, which pytest calls an interrupt
        ((UNCOLLECTED,), False, 2, 4),
    ],
)
@pytest.mark.parametrize("has_run", [True, False])
def test_a_session_ends_with_its_exit_status_and_a_footer_that_says_so(
    reports: tuple[Any, ...], require_all: bool, pytest_status: int, status: int, has_run: bool, tmp_path: Path
) -> None:
    state = session(tmp_path, require_all=require_all)
    if has_run:
        RunWriter.create(tmp_path, header()).append(accuracy("fp32", 0.7651, 0.9298))
    tally = tallied(*reports)
    assert finish(state, tally, pytest_status) == status
    assert status in MEANINGS
    assert state.directory.exists() == has_run
    if has_run:
        footer = read_run(state.directory).footer
        assert footer is not None and footer.exit_status == status
        assert footer.counts == {verdict: int(verdict == "inside") for verdict in GRAVITY}  # of what was written


def compared(verdict: str, outcome: str = "passed", **told: object) -> pytest.TestReport:
    judged = {"verdict": "unjudged", "judged": 0, **told}
    return report(outcome, **judged, **{"comparison base -> new": f"{verdict}: because: of this"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reports", "strict", "pytest_status", "status"),
    [
        ((compared("same"),), False, 0, 0),
        ((compared("inconclusive"),), False, 0, 5),
        ((INSIDE, compared("inconclusive")), False, 0, 0),
        ((INSIDE, compared("inconclusive", "failed", undecided=True)), True, 1, 6),
        ((INSIDE, OUTSIDE, compared("inconclusive", "failed", undecided=True)), True, 1, 1),
        ((INSIDE, report("failed"), compared("inconclusive", "failed", undecided=True)), True, 1, 1),
        ((INSIDE, compared("regressed", "failed")), False, 1, 1),
        ((INSIDE, compared("regressed", "failed"), compared("inconclusive", "failed", undecided=True)), True, 1, 1),
        ((INSIDE, compared("no baseline")), True, 0, 0),
    ],
)
def test_a_session_that_compared_ends_with_its_exit_status(
    reports: tuple[Any, ...], strict: bool, pytest_status: int, status: int, tmp_path: Path
) -> None:
    state = session(tmp_path, strict=strict)
    RunWriter.create(tmp_path, header()).append(accuracy("fp32", 0.7651, 0.9298))
    assert finish(state, tallied(*reports), pytest_status) == status
    footer = read_run(state.directory).footer
    assert footer is not None and footer.exit_status == status


def test_a_comparison_is_told_with_its_stacks_its_verdict_and_its_sentence() -> None:
    tally = tallied(compared("regressed", "failed"))
    assert tally.comparisons == [("the-case", "base -> new", "regressed", "because: of this")]
    assert tally.changes == {"regressed": 1}
    assert tally.status(compared("regressed", "failed")) == ("failed", "R", ("REGRESSED", {"red": True}))
    assert tally.status(compared("same")) == ("unjudged", "u", ("UNJUDGED", {"yellow": True}))


def test_a_footer_that_cannot_be_written_is_a_fault_that_is_told(tmp_path: Path) -> None:
    state = session(tmp_path)
    (state.directory / "run.jsonl").mkdir(parents=True)
    tally = tallied(INSIDE)
    assert finish(state, tally, 0) == 3
    assert tally.faults == [
        f"Cannot open the run file in {str(state.directory)!r}: Is a directory. "
        "Hint: Free space there, or give another directory with --output-dir."
    ]


@pytest.mark.parametrize(
    ("flags", "precision", "needed"),
    [
        ((), "bf16", "avx512_bf16 or amx_bf16"),
        ((), "int8", "avx512_vnni or avx_vnni or amx_int8"),
        (("avx512_vnni",), "bf16", "avx512_bf16 or amx_bf16"),
        (("avx512f", "avx512_bf16"), "int8", "avx512_vnni or avx_vnni or amx_int8"),
    ],
)
def test_a_precision_that_the_cpu_lacks_is_not_run(
    flags: tuple[str, ...], precision: str, needed: str, tmp_path: Path
) -> None:
    state = session(tmp_path)
    state.host = msgspec.structs.replace(xeon(1, 2), flags=flags)
    with pytest.raises(CannotRun) as error:
        require_native(state, precision)
    assert error.value.message == f"This CPU has no instructions for {precision}: it has none of {needed}."
    assert error.value.hint == "Run the case on a machine that has, or choose others with -m."


@pytest.mark.parametrize(
    ("flags", "precision"), [((), "fp32"), (("amx_bf16",), "bf16"), (("avx_vnni",), "int8"), (("amx_int8",), "int8")]
)
def test_a_precision_that_the_cpu_has_is_run(flags: tuple[str, ...], precision: str, tmp_path: Path) -> None:
    state = session(tmp_path)
    state.host = msgspec.structs.replace(xeon(1, 2), flags=flags)
    require_native(state, precision)
