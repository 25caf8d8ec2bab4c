"""Many runs of a case: levels, the first run of each, and what somebody accepted."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from comparison_examples import CASE, head, repeats, stack, write

from conformance.cli import main
from conformance.commands.history import found_runs
from conformance.judging.history import FEWEST_RUNS, History, histories, levels, noise
from conformance.records import Run
from conformance.records.accepted import Accepted, read_accepted

pytest.importorskip("ruptures", reason="ruptures is not installed")


def series(medians: list[float], noise: float = 0.01, seed: int = 0, **changes: Any) -> list[Run]:
    """Return a run a day, each of three repeats."""
    made = []
    for day, median_s in enumerate(medians, start=1):
        header = head(f"{seed:04}", day, stacks=changes.get("stacks", stack())) if "stacks" not in changes else None
        header = header or head(f"{seed:04}", day, stacks=changes["stacks"][day - 1])
        records = repeats(median_s, 3, noise, seed=100 * seed + day)
        made.append(Run(directory=f"runs/{header.run}", header=header, records=records, footer=None))
    return made


def history(runs: list[Run], accepted: tuple[Accepted, ...] = ()) -> History:
    (found,) = [h for h in histories(runs, accepted) if h.key.metric == "latency_p50_s"]
    return found


def accepted(run: Run, metric: str | None = None) -> Accepted:
    return Accepted(
        run=run.header.run, case=CASE, metric=metric, reason="it must be", accepted_at="2026-12-01T00:00:00"
    )


def test_the_first_run_of_a_new_level_is_found_with_what_differs_from_the_run_before() -> None:
    stacks = [stack("2.20.0")] * 12 + [stack("2.21.0")] * 10
    runs = series([0.0100] * 12 + [0.0106] * 10, stacks=stacks)
    found = history(runs)
    (shift,) = found.shifts
    assert shift.first.run is runs[12] and (shift.step, shift.stands) == ("regressed", True)
    assert shift.differences == ("TensorFlow 2.20.0 -> 2.21.0",)
    assert [(level.first, level.end) for level in found.levels] == [(0, 12), (12, 22)]
    assert shift.after / shift.before == pytest.approx(1.06, abs=0.015)
    assert found.points[0].repeats == 3


def test_the_order_in_which_runs_are_given_does_not_matter() -> None:
    runs = series([0.0100] * 8 + [0.0120] * 8)
    shuffled = random.Random(1).sample(runs, len(runs))
    assert history(shuffled).shifts == history(runs).shifts


def test_one_slow_run_is_an_outlier_until_another_is_like_it() -> None:
    assert history(series([0.0100] * 10 + [0.0130] + [0.0100] * 9)).shifts == ()
    assert history(series([0.0100] * 15 + [0.0130])).shifts == ()
    (shift,) = history(series([0.0100] * 15 + [0.0130] * 2)).shifts
    assert shift.first.run.header.run.startswith("run-20261116")


def test_a_level_that_is_reached_again_does_not_stand() -> None:
    worse, better = history(series([0.0100] * 8 + [0.0120] * 6 + [0.0100] * 6)).shifts
    assert (worse.step, worse.stands, better.step, better.stands) == ("regressed", False, "improved", False)


def test_an_accepted_level_does_not_stand_and_a_later_one_does() -> None:
    runs = series([0.0100] * 8 + [0.0112] * 8 + [0.0126] * 8)
    first, second = history(runs, (accepted(runs[10]),)).shifts
    assert (first.accepted, first.stands, second.accepted, second.stands) == ("it must be", False, "", True)
    # Accepting a run before the change, or another metric of it, accepts nothing.
    for entry in (accepted(runs[7]), accepted(runs[10], "top1")):
        assert [shift.stands for shift in history(runs, (entry,)).shifts] == [True, True]


def test_machines_profiles_and_batches_have_histories_of_their_own() -> None:
    runs = series([0.01] * 6)
    header = head("else", 9, host={**runs[0].header.host, "sockets": 2})
    batch = tuple(msgspec.structs.replace(r, batch_size=2) for r in repeats(0.02, 2))
    runs.append(Run(directory="runs/x", header=header, records=repeats(0.02, 2), footer=None))
    runs.append(Run(directory="runs/y", header=head("y", 10), records=batch, footer=None))
    keys = [h.key for h in histories(runs) if h.key.metric == "latency_p50_s"]
    assert [(key.batch_size, "(" in key.machine) for key in keys] == [(1, True), (1, True), (2, True)]
    assert len({key.machine for key in keys}) == 2


def test_stacks_of_one_run_have_histories_of_their_own() -> None:
    both = tuple(msgspec.structs.replace(r, stack=name) for name in ("base", "new") for r in repeats(0.01, 2))
    runs = [Run(directory="runs/x", header=head("x", 1), records=both, footer=None)]
    assert {h.key.stack for h in histories(runs)} == {"base", "new"}


def test_what_was_not_measured_is_no_point_of_a_history() -> None:
    runs = series([0.01] * 6)
    failed = tuple(msgspec.structs.replace(r, verdict="invalid") for r in repeats(0.5, 3))
    runs.append(Run(directory="runs/x", header=head("x", 9), records=failed, footer=None))
    assert len(history(runs).points) == 6


def test_fewer_than_five_runs_have_one_level() -> None:
    assert FEWEST_RUNS == 5
    assert len(levels([1.0, 1.0, 2.0, 2.0])) == 1


def test_values_that_repeat_exactly_have_one_level_and_a_step_in_them_is_found() -> None:
    assert len(levels([0.98] * 9)) == 1
    assert [(level.first, level.end) for level in levels([0.98] * 9 + [0.97] * 9)] == [(0, 9), (9, 18)]


def test_noise_is_that_about_the_levels() -> None:
    draw = random.Random(3)
    values = [draw.gauss(0, 0.01) + (1.0 if place >= 1000 else 0.0) for place in range(2000)]
    assert noise(values) == pytest.approx(0.01, rel=0.06)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for run in series([0.0100] * 8 + [0.0120] * 4, stacks=[stack("2.20.0")] * 8 + [stack("2.21.0")] * 4):
        write(tmp_path / "runs", run.header, run.records)
    return tmp_path / "runs"


def test_the_command_names_the_run_and_exits_1_until_the_level_is_accepted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", str(place)]) == 1
    out = capsys.readouterr().out
    assert "in 4 runs from run-20261109-120000-0000 of 2026-11-09: regressed, +1" in out
    assert "differs: TensorFlow 2.20.0 -> 2.21.0" in out
    assert "12 runs, 1 histories: 1 changes, 1 regressions stand." in out
    run = place / "run-20261110-120000-0000"
    reason = 'Sicherheit: Prüfsummen, "ganz" \\ sicher 🙂'
    assert main(["accept", str(run), "--case", CASE, "--reason", reason]) == 0
    assert capsys.readouterr().out == f"Wrote {place / 'accepted.toml'}\n"
    (entry,) = read_accepted(place)
    assert (entry.run, entry.case, entry.metric, entry.reason) == (run.name, CASE, None, reason)
    assert main(["history", str(place), "--case", CASE]) == 0
    assert f"regressed, accepted: {reason}, +" in capsys.readouterr().out


def test_the_gate_judges_from_the_accepted_level_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(iter(found_runs([place])))
    more = write(place, head("next", 20), repeats(0.0120, 10, 0.005, seed=77))
    assert main(["compare", str(first), str(more)]) == 1
    level = write(place, head("leve", 19), repeats(0.0120, 10, 0.005, seed=78))
    assert main(["accept", str(level), "--case", CASE, "--metric", "latency_p50_s", "--reason", "new level"]) == 0
    capsys.readouterr()
    assert main(["compare", str(first), str(more), "--strict"]) == 0
    out = capsys.readouterr().out
    assert "median time a batch: judged by the level accepted in run-20261119-120000-leve: new level" in out


def test_a_run_in_a_directory_that_cannot_be_read_is_told_and_left_out_and_one_that_was_given_is_an_error(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place / "run-20261103-120000-0000"
    lines = (run / "run.jsonl").read_text().splitlines(keepends=True)
    (run / "run.jsonl").write_text(lines[0])
    assert main(["history", str(place)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("left out: ") and "holds no record" in out and "11 runs, 1 histories" in out
    assert main(["history", str(place), str(run)]) == 4


def test_runs_are_found_in_directories_once(place: Path) -> None:
    runs = found_runs([place, place / "run-20261101-120000-0000", place / "run-20261101-120000-0000" / "run.jsonl"])
    assert len(runs) == 12 and [path.name for path, given in runs.items() if given] == ["run-20261101-120000-0000"]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["EMPTY"], "is no run and holds none."),
        (["nowhere"], "'nowhere' is no run and holds none."),
        (["PLACE", "--case", "other"], "Unknown case 'other'; known: fp32-latency-b1."),
    ],
)
def test_a_mistake_is_one_sentence(
    place: Path, argv: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.parent / "empty").mkdir()
    words = [word.replace("PLACE", str(place)).replace("EMPTY", str(place.parent / "empty")) for word in argv]
    assert main(["history", *words]) == 4
    assert error in capsys.readouterr().err.splitlines()[0]


def test_a_file_of_accepted_levels_is_read_strictly(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "accepted.toml").write_text('[[accepted]]\nrun = "x"\ncase = "y"\nreasons = "z"\n')
    assert main(["history", str(place)]) == 4
    assert "Unknown key 'reasons' (did you mean 'reason'?)" in capsys.readouterr().err


@pytest.mark.parametrize("runs", [6, 12, 24])
def test_equal_runs_rarely_seem_to_change_and_a_step_of_five_deviations_is_found(runs: int) -> None:
    """Noise with heavy tails: one run in twenty is four times as far off as the others."""
    draw = random.Random(runs)

    def noisy(place: int, step: float) -> float:
        outlier = 4.0 if draw.random() < 0.05 else 1.0
        return math.exp(draw.gauss(0, 0.01) * outlier + (step if place >= runs // 2 else 0.0))

    equal = sum(len(levels([noisy(i, 0.0) for i in range(runs)])) > 1 for _ in range(150))
    slower = sum(len(levels([noisy(i, 0.05) for i in range(runs)])) > 1 for _ in range(40))
    assert equal <= 5 and slower >= (38 if runs > 6 else 20)
