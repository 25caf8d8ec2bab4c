"""What a case is judged from: the baseline, and levels that somebody accepted, of the same machine and stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from comparison_examples import CASE, head, repeats, speed_stand_in, stack, write
from session_examples import ROW, session, suites

from conformance.cli import main
from conformance.errors import UsageError
from conformance.judging.runs import compare_case, compare_run
from conformance.records import Comparison, Run
from conformance.records.accepted import Baseline, accept
from conformance.records.run_file import read_run


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {change.metric: change.verdict for change in comparison.changes}


LATER = "2026-11-20T08:00:00+00:00"


def test_a_level_of_another_machine_is_not_judged_from(tmp_path: Path) -> None:
    host = {**head("x").host, "sockets": 2}
    base = read_run(write(tmp_path, head("aaaa", 1), repeats(0.0100)))
    elsewhere = read_run(write(tmp_path, head("bbbb", 2, host=host), repeats(0.0200, seed=1)))
    here = read_run(write(tmp_path, head("cccc", 3), repeats(0.0150, seed=2)))
    for metric in (None, "latency_p50_s"):
        accept(elsewhere, CASE, metric, "that machine is slower", LATER)
        (found,) = compare_run(Baseline(base), here, max_slowdown=0.03)
        assert (found.verdict, found.base) == ("regressed", f"tf of {base.header.run}")
        assert verdicts(found)["latency_p50_s"] == "regressed"
    # On that machine it is what there is to judge from.
    again = read_run(write(tmp_path, head("dddd", 4, host=host), repeats(0.0200, seed=3)))
    found = compare_case(Baseline(base), again, again.records, max_slowdown=0.03)
    assert found.verdict == "same" and found.base == f"tf of {elsewhere.header.run}"


def test_other_metrics_than_the_accepted_one_have_no_baseline_on_another_machine(tmp_path: Path) -> None:
    host = {**head("x").host, "sockets": 2}
    base = read_run(write(tmp_path, head("aaaa", 1), repeats(0.0100)))
    level = read_run(write(tmp_path, head("bbbb", 2, host=host), repeats(0.0200, seed=1)))
    accept(level, CASE, "latency_p50_s", "new machine", LATER)
    new = read_run(write(tmp_path, head("cccc", 3, host=host), repeats(0.0200, seed=2)))
    found = compare_case(Baseline(base), new, new.records, max_slowdown=0.03)
    assert found.verdict == "no baseline" and "made on another machine: sockets 8 -> 2." in found.reason


def test_between_machines_a_level_stands_in_for_the_baseline_whose_machine_it_is_of(tmp_path: Path) -> None:
    host, third = ({**head("x").host, "sockets": sockets} for sockets in (2, 4))
    base = read_run(write(tmp_path, head("aaaa", 1), repeats(0.0100)))
    level = read_run(write(tmp_path, head("bbbb", 2), repeats(0.0120, seed=1)))
    accept(level, CASE, None, "new level", LATER)
    elsewhere = read_run(write(tmp_path, head("cccc", 3, host=third), repeats(0.0200, seed=2)))
    accept(elsewhere, CASE, None, "that machine's", LATER)
    new = read_run(write(tmp_path, head("dddd", 4, host=host), repeats(0.0120, seed=3)))
    (found,) = compare_run(Baseline(base), new, max_slowdown=0.03, cross_machine=True)
    assert (found.verdict, found.base) == ("same", f"tf of {level.header.run}")


@pytest.mark.parametrize("changes", [{"profile": "small-cpu"}, {"batch_size": 2}, {"suite": "gaudi"}])
def test_a_level_of_another_profile_batch_or_suite_is_not_judged_from(tmp_path: Path, changes: dict[str, Any]) -> None:
    base = read_run(write(tmp_path, head("aaaa", 1), repeats(0.0100)))
    other = read_run(write(tmp_path, head("bbbb", 2), repeats(0.0200, seed=1, **changes)))
    accept(other, CASE, None, "it is another", LATER)
    new = read_run(write(tmp_path, head("cccc", 3), repeats(0.0100, seed=2)))
    (found,) = compare_run(Baseline(base), new, max_slowdown=0.03)
    assert (found.verdict, found.base) == ("same", f"tf of {base.header.run}")


def test_a_run_is_not_judged_by_a_level_that_is_newer(tmp_path: Path) -> None:
    base, older, newer = (
        read_run(write(tmp_path, head(name, day), repeats(step_s, seed=day)))
        for day, (name, step_s) in enumerate([("aaaa", 0.0100), ("bbbb", 0.0100), ("cccc", 0.0120)], start=1)
    )
    accept(newer, CASE, None, "new level", LATER)
    (found,) = compare_run(Baseline(base), older, max_slowdown=0.03)
    assert (found.verdict, found.base) == ("same", f"tf of {base.header.run}")


def of_stacks(place: Path, name: str, day: int, **steps_s: float) -> Run:
    """Return a run of several stacks, whose first repeat was not the base's."""
    records = [
        tuple(msgspec.structs.replace(record, stack=stack) for record in repeats(step_s, seed=10 * day + place))
        for place, (stack, step_s) in enumerate(steps_s.items())
    ]
    stacks = {stack_name: stack()["tf"] for stack_name in steps_s}
    return read_run(write(place, head(name, day, stacks=stacks), tuple(r for side in records[::-1] for r in side)))


@pytest.mark.parametrize("names", [("base", "new"), ("first", "second")])
def test_of_a_run_of_two_stacks_the_level_of_the_new_one_is_accepted(tmp_path: Path, names: tuple[str, str]) -> None:
    base = read_run(write(tmp_path, head("aaaa", 1), repeats(0.0100)))
    both = of_stacks(tmp_path, "bbbb", 2, **{names[0]: 0.0100, names[1]: 0.0110})
    accept(both, CASE, None, "the new one may cost 10 %", LATER)
    new = read_run(write(tmp_path, head("cccc", 3), repeats(0.0110, seed=2)))
    (found,) = compare_run(Baseline(base), new, max_slowdown=0.03)
    assert (found.verdict, found.base) == ("same", f"{names[1]} of {both.header.run}")
    # It is no level of the other stack of that run.
    first, second = sorted(compare_run(Baseline(base), both, max_slowdown=0.03), key=lambda one: one.new)
    assert (first.verdict, first.base) == ("same", f"tf of {base.header.run}")
    assert (second.verdict, second.base) == ("same", f"{names[1]} of {both.header.run}")


def test_of_three_stacks_the_one_that_is_meant_must_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = of_stacks(tmp_path, "bbbb", 2, base=0.0100, tf220=0.0110, tf221=0.0120)
    asked = ["accept", three.directory, "--case", CASE, "--reason", "x"]
    assert main(asked) == 4
    error, hint = capsys.readouterr().err.splitlines()
    assert f"was measured in {three.header.run} on 2 stacks: tf220, tf221." in error and "--stack NAME" in hint
    assert main([*asked, "--stack", "tf22"]) == 4
    assert "Unknown stack 'tf22'" in capsys.readouterr().err
    assert main([*asked, "--stack", "base"]) == 0
    assert 'stack = "base"' in (tmp_path / "accepted.toml").read_text()


def test_an_entry_of_an_older_harness_has_no_stack_and_is_judged_from(tmp_path: Path) -> None:
    base, level, new = (
        read_run(write(tmp_path, head(name, day), repeats(step_s, seed=day)))
        for day, (name, step_s) in enumerate([("aaaa", 0.0100), ("bbbb", 0.0120), ("cccc", 0.0120)], start=1)
    )
    accept(level, CASE, None, "x", LATER)
    file = tmp_path / "accepted.toml"
    file.write_text("".join(line for line in file.open() if not line.startswith("stack")))
    (found,) = compare_run(Baseline(base), new, max_slowdown=0.03)
    assert (found.verdict, found.base) == ("same", f"tf of {level.header.run}")


def test_an_accepted_run_is_found_by_the_name_in_its_header(tmp_path: Path) -> None:
    base = write(tmp_path, head("aaaa", 1), repeats(0.0100))
    level = write(tmp_path, head("bbbb", 2), repeats(0.0120, seed=1))
    new = write(tmp_path, head("cccc", 3), repeats(0.0120, seed=2))
    accept(read_run(level.rename(tmp_path / "the fix of the rounding")), CASE, None, "x", LATER)
    # Another run has taken its place meanwhile, and a directory that is no run stands beside them.
    new.rename(level)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.jsonl").write_bytes(b"\xff\n")
    assert main(["compare", str(base), str(level)]) == 0
    (_, found), *_ = Baseline(read_run(base)).levels
    assert found.directory == str(tmp_path / "the fix of the rounding")


def test_what_was_not_measured_is_not_accepted(tmp_path: Path) -> None:
    failed = read_run(write(tmp_path, head("aaaa", 1), repeats(0.01, verdict="invalid")))
    with pytest.raises(UsageError, match="Nothing of 'fp32-latency-b1' was measured"):
        accept(failed, CASE, None, "x", LATER)


@pytest.mark.outside
def test_a_session_tells_a_baseline_that_cannot_be_judged_from_before_it_measures(tmp_path: Path) -> None:
    project = suites(tmp_path, ROW)
    base = write(tmp_path / "kept", head("aaaa", 1), repeats(0.01))
    given = ("--hw-mismatch", "run", "--stack", f"mine={speed_stand_in(tmp_path, 0.01)}", "--baseline", str(base))
    ended = session(tmp_path, "suites", *given, cwd=project)
    told = "baseline differs: run-20261101-120000-aaaa was made on another machine: "
    header = ended.text.partition("collected")[0]
    assert told in header and "No case can be compared with it." in header, ended.text

    accepted = base.parent / "accepted.toml"
    entry = f'run = "run-gone"\ncase = "{CASE}"\nreason = "x"\n'
    accepted.write_text(f'[[accepted]]\n{entry}accepted_at = "{LATER}"\n')
    for place, error in (("gone", "as in 'run-gone', and that run is not there."), ("broken", "is not TOML")):
        refused = session(tmp_path / place, "suites", *given, cwd=project)
        assert refused.status == 4 and error in refused.text and not refused.has_run, refused.text
        accepted.write_text("[[accepted")
