"""The noise floor: what it is computed from, where it is kept, and the gate that asks for less."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from comparison_examples import CASE, head, repeats, speed_stand_in, stack, write
from scipy import integrate, stats
from session_examples import QUICK, ROOT, ROW, environment, processes, session, stand_in, suites
from test_side_by_side import TRAINED

from conformance.cases import load_cases
from conformance.cli import main
from conformance.commands.calibrate import floors_of
from conformance.errors import UsageError
from conformance.fixtures.floors import Calibrated, calibration_file, keep_floors, measured_batch_size, read_floors
from conformance.fixtures.options import Options
from conformance.fixtures.session import Session
from conformance.hardware.detect import detect, digest, identity
from conformance.judging.change import ALPHA, POWER, judge_change
from conformance.judging.floor import REPEATS, detectable, floor, limiting, refusal, repeats_needed
from conformance.records import Record, Run
from conformance.records.run_file import read_run


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(
    ("repeats", "beside", "effect"),
    [(5, 5, 2.02), (7, 7, 1.63), (10, 10, 1.32), (30, 30, 0.74), (5, 20, None), (30, 4, None)],
)
def test_what_repeats_beside_others_can_show_is_found_by_a_t_test_in_four_trials_of_five(
    repeats: int, beside: int, effect: float | None, alpha: float
) -> None:
    """The power by its definition: the chance that a shifted normal beats the limit, over all estimates of its spread.

    ``effect`` is that of the published tables at 5 %, in standard deviations; they are of sides that are equally many.
    """
    found = math.log1p(detectable(0.01, repeats, beside=beside, alpha=alpha)) / 0.01
    freedom = repeats + beside - 2
    limit = stats.t.ppf(1 - alpha / 2, freedom)

    def beats(squares: float) -> float:
        shown = stats.norm.cdf(found / math.sqrt(1 / repeats + 1 / beside) - limit * math.sqrt(squares / freedom))
        return float(shown * stats.chi2.pdf(squares, freedom))

    assert integrate.quad(beats, 0, 40 + 4 * freedom)[0] == pytest.approx(POWER, abs=1e-4)
    assert effect is None or alpha != 0.05 or found == pytest.approx(effect, abs=0.006)


@pytest.mark.parametrize("beside", [None, 80])
@pytest.mark.parametrize("change", [0.015, 0.03, 0.2])
def test_the_repeats_that_it_takes_are_the_fewest(beside: int | None, change: float) -> None:
    needed = repeats_needed(0.04, change, beside=beside)
    assert needed is not None
    assert detectable(0.04, needed, beside=beside) <= change
    assert needed == REPEATS[0] or detectable(0.04, needed - 1, beside=beside) > change


def test_a_change_that_no_number_of_repeats_shows_is_said_to_be_one() -> None:
    assert repeats_needed(1.0, 0.001) is None
    assert repeats_needed(0.04, 0.01, beside=10) is None and detectable(0.04, 10_000, beside=10) > 0.01


def test_repeats_of_which_the_gate_has_no_test_show_nothing() -> None:
    assert detectable(0.001, 4) == math.inf > detectable(0.001, 5)
    assert repeats_needed(0.001, 0.03) == 5
    assert detectable(0.001, 9, beside=1) == math.inf > detectable(0.001, 6, beside=4)
    steady = floor("latency_p50_s", [1.0, 1.0, 1.0], [1.0, 1.001, 1.0])
    assert steady.detectable[:2] == (None, None) and None not in steady.detectable[2:]
    told = judge_change("latency_p50_s", [1.0, 1.001, 1.002, 1.003], [2.0, 2.001, 2.002, 2.003], paired=True)
    assert told.verdict == "inconclusive" and "which takes 5 pairs" in told.text


def test_a_metric_that_shares_the_error_with_another_shows_less() -> None:
    alone = floor("latency_p50_s", [1.0, 1.0, 1.0], [1.0, 1.1, 1.0])
    beside = msgspec.structs.replace(alone, metric="speedup_over_fp32")
    watched = msgspec.structs.replace(alone, metric="latency_p99_s")
    accuracy = msgspec.structs.replace(alone, metric="top1")
    assert list(limiting([alone, watched])) == [(alone, ALPHA)]
    assert list(limiting([alone, beside, watched])) == [(alone, ALPHA / 2), (beside, ALPHA / 2)]
    assert list(limiting([watched, accuracy])) == []
    between = (detectable(alone.pair_sd, 9) + detectable(alone.pair_sd, 9, alpha=ALPHA / 2)) / 2
    assert refusal("a", alone, between, 9, alpha=ALPHA / 2) and not refusal("a", alone, between, 9)


def test_the_floor_is_the_spread_of_the_pairs_and_not_what_they_have_in_common() -> None:
    draw = random.Random(5)
    common = [math.exp(draw.gauss(0, 0.2)) for _ in range(400)]
    base, new = ([c * math.exp(draw.gauss(0, 0.01)) for c in common] for _ in range(2))
    found = floor("latency_p50_s", base, new)
    assert found.pairs == 400 and found.pair_sd == pytest.approx(0.01 * math.sqrt(2), rel=0.1)
    assert found.side_sd == pytest.approx(0.2, rel=0.1)
    assert found.ratio_95 == pytest.approx(1.96 * 0.01 * math.sqrt(2), rel=0.15)
    assert len(found.detectable) == 28 and found.detectable[7] == detectable(found.pair_sd, 10)
    shown = [share for share in found.detectable if share is not None]
    assert len(shown) == 26 and shown == sorted(shown, reverse=True)


def test_a_gate_below_the_floor_is_refused_with_the_repeats_that_it_takes() -> None:
    found = msgspec.structs.replace(floor("latency_p50_s", [1.0, 1.0, 1.0], [1.0, 1.1, 1.0]), pair_sd=0.05, pairs=10)
    needed = repeats_needed(0.05, 0.03)
    assert refusal("a", found, 0.03, 10) == (
        "--max-slowdown 3% is below the noise floor of 'a': median time a batch differs by 5.1 % from itself here "
        f"(10 pairs), and 10 repeats can show {100 * detectable(0.05, 10):.1f} %; it would take {needed}."
    )
    assert needed is not None and refusal("a", found, 0.03, needed) is None
    told = refusal("a", found, 0.03, 1)
    assert told is not None and "1 repeat can show nothing" in told
    few = refusal("a", msgspec.structs.replace(found, side_sd=0.03), 0.03, 100, beside=8)
    assert few is not None and "and 100 repeats beside 8 of the baseline can show" in few
    both = next(n for n in range(8, 100) if detectable(0.03, n, beside=n) <= 0.03)
    assert few.endswith(f"it would take {both} of both.")
    hopeless = refusal("a", msgspec.structs.replace(found, pair_sd=2.0), 0.001, 10)
    assert hopeless is not None and hopeless.endswith("more than 10,000 would be needed.")


def sides(*stacks: tuple[Record, ...], digests: tuple[str, ...] = ("d", "d")) -> Run:
    records = tuple(
        msgspec.structs.replace(record, stack=name, stack_digest=digest)
        for name, side, digest in zip(("base", "new"), stacks, digests, strict=True)
        for record in side
    )
    header = head("aaaa", stacks={"base": stack()["tf"], "new": stack()["tf"]})
    return Run(directory="runs/x", header=header, records=records, footer=None)


def test_floors_are_of_whole_pairs_of_each_metric_of_a_gate() -> None:
    (found,) = floors_of(sides(repeats(0.01, 10), repeats(0.01, 9, seed=1)), "machine")
    assert {one.metric for one in found.floors} >= {"latency_p50_s", "throughput_images_per_s", "ceiling_share"}
    assert {one.pairs for one in found.floors} == {9}
    assert (found.machine, found.profile, found.batch_size, found.stack_digest) == ("machine", "xeon-8s", 1, "d")
    assert found.stack == "/opt/tf/bin/python"


def test_a_run_of_one_stack_has_no_floors() -> None:
    alone = tuple(msgspec.structs.replace(record, stack="base", stack_digest="d") for record in repeats(0.01, 3))
    assert list(floors_of(Run(directory="runs/x", header=head("aaaa"), records=alone, footer=None), "machine")) == []


def test_a_case_that_was_interrupted_has_fewer_pairs_than_are_asked_for() -> None:
    run = sides(repeats(0.01, 10), repeats(0.01, 9, seed=1))
    assert list(floors_of(run, "machine", 10)) == [] and len(list(floors_of(run, "machine", 9))) == 1


def test_a_case_without_pairs_has_no_floor() -> None:
    nothing = tuple(msgspec.structs.replace(r, metrics={}, verdict="invalid") for r in repeats(0.01, 3))
    assert list(floors_of(sides(repeats(0.01, 3), nothing), "machine")) == []


def test_a_stack_that_changed_meanwhile_is_no_calibration() -> None:
    with pytest.raises(UsageError, match="'base' and 'new' of .* are not the same stack"):
        list(floors_of(sides(repeats(0.01, 3), repeats(0.01, 3), digests=("d", "e")), "machine"))


def test_what_is_calibrated_again_replaces_what_was(tmp_path: Path) -> None:
    (one,) = floors_of(sides(repeats(0.01, 4), repeats(0.01, 4, seed=1)), "m")
    file = calibration_file(tmp_path, "m")
    keep_floors(file, [one, msgspec.structs.replace(one, stack_digest="other")])
    keep_floors(file, [msgspec.structs.replace(one, run="later")])
    assert [(entry.stack_digest, entry.run) for entry in read_floors(file)] == [("d", "later"), ("other", one.run)]
    assert json.loads(file.read_text())[0]["floors"][0]["metric"]


def test_floors_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = calibration_file(tmp_path, "m")
    file.parent.mkdir()
    file.write_text('[{"machine": 1}]')
    with pytest.raises(UsageError, match=r"m\.json' cannot be read: .*`str`.*\$\[0\]\.machine"):
        read_floors(file)


STEPS = '"step_s": [step_s] * 20'
# One step of twenty is as slow as chance will have it: p99 differs by a quarter from itself, and the median by 1 %.
WITH_A_TAIL = '"step_s": [step_s] * 19 + [step_s * (1.2 + draw.random())]'


def tailed_stand_in(place: Path) -> str:
    """Make a stack of a stand-in whose slowest step is noisier than its median."""
    python, script = speed_stand_in(place, 0.01), place / "answers" / "measured.py"
    source = script.read_text()
    assert STEPS in source
    script.write_text(source.replace(STEPS, WITH_A_TAIL))
    return python


def calibrate(place: Path, *argv: str) -> list[str]:
    """Return the command line that calibrates the stand-in in a place, from pairs of a generic CPU."""
    return [
        sys.executable, "-m", "conformance.cli", "calibrate", "suites/mine", "--hw", "generic-cpu", "--stack",
        str(place / "stack" / "bin" / "python"), "--output-dir", "kept", *argv, "--", "-p", "no:cacheprovider",
        "--hw-mismatch", "run",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a suite of one case and a stand-in stack, calibrated with five pairs by the command."""
    place = tmp_path_factory.mktemp("calibrate")
    tailed_stand_in(place)
    suites(place, ROW + "warmup_steps = 1\nsteps = 1\n")
    done = subprocess.run(
        calibrate(place, "--repeats", "5"),
        cwd=place / "project", env=environment(place, PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (place / "out.txt").write_text(done.stdout)
    return place


def floors(place: Path) -> tuple[Calibrated, ...]:
    (file,) = (place / "cache" / "calibration").glob("*.json")
    return read_floors(file)


@pytest.mark.outside
def test_the_command_runs_a_stack_beside_itself_and_keeps_what_it_found(calibrated: Path) -> None:
    (found,) = floors(calibrated)
    assert (found.suite, found.case, found.batch_size, found.profile) == ("mine", "mine", 1, "generic-cpu")
    middle = next(one for one in found.floors if one.metric == "latency_p50_s")
    assert middle.pairs == 5 and 0 < middle.pair_sd < 0.1
    text = (calibrated / "out.txt").read_text()
    assert "Smallest change that N pairs show, 80 % of the time at a p of 0.016, or 0.004" in text and "N=30" in text
    assert re.search(r"median time a batch +5 .* % +- +[\d.]+ %", text) and "p99, watched" in text
    assert "mine mine, batch 1, profile generic-cpu" in text and "Kept in " in text
    assert "not quiet" not in text  # the stand-in says that it was alone


@pytest.mark.outside
def test_what_is_known_is_shown(
    calibrated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFORMANCE_CACHE", str(calibrated / "cache"))
    assert main(["calibrate", "--show"]) == 0
    assert "median time a batch" in capsys.readouterr().out


def gate(place: Path, *argv: str) -> tuple[int, str]:
    """Run the suite beside its own calibration run as baseline."""
    (run,) = (place / "project" / "kept").glob("calibration-*/run-*")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "suites/mine", "-p", "no:cacheprovider", "--hw", "generic-cpu",
         "--hw-mismatch", "run", "--stack", str(place / "stack" / "bin" / "python"), "--baseline", str(run),
         "--output-dir", str(place / "gates"), *argv],
        cwd=place / "project", env=environment(place, PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.outside
def test_a_gate_below_the_floor_ends_before_anything_is_measured(calibrated: Path) -> None:
    (found,) = floors(calibrated)
    middle = next(one for one in found.floors if one.metric == "latency_p50_s")
    limit = middle.side_sd / 2
    status, text = gate(calibrated, "--repeats", "5", "--max-slowdown", f"{100 * limit:.3f}%")
    assert status == 4 and "is below the noise floor of 'mine': median time a batch differs" in text
    assert re.search(r"and 5 repeats beside 5 of the baseline can show [\d.]+ %; it would take \d+ of both\.", text), (
        text
    )
    assert not (calibrated / "gates").exists() or not list((calibrated / "gates").glob("run-*"))


@pytest.mark.outside
def test_a_gate_above_the_floor_is_run_whatever_the_noise_of_what_is_only_watched(calibrated: Path) -> None:
    (found,) = floors(calibrated)
    sds = {one.metric: one.side_sd for one in found.floors}
    assert detectable(sds["latency_p50_s"], 5, beside=5) < 0.08 < detectable(sds["latency_p99_s"], 5, beside=5)
    status, text = gate(calibrated, "--repeats", "5", "--max-slowdown", "8%")
    assert status == 0 and "noise floor" not in text, text


SMALL = QUICK.replace("[drive]", "[drive]\ntrain_batch_size = 4")
SMOKE = "resnet50_v1_5-fp32-smoke"


@pytest.mark.outside
def test_a_training_is_held_against_the_floor_of_the_batch_that_its_profile_makes_of_the_rows(tmp_path: Path) -> None:
    python = stand_in(tmp_path, "import random\nSTEP_S = random.lognormvariate(0, 0.1)", TRAINED)
    (tmp_path / "quick.toml").write_text(SMALL)
    asked = ("--hw", str(tmp_path / "quick.toml"), "-k", SMOKE)
    done = subprocess.run(
        [sys.executable, "-m", "conformance.cli", "calibrate", "suites/training", "--repeats", "3", *asked[:2],
         "--stack", python, "--output-dir", str(tmp_path / "kept"), "--", "-p", "no:cacheprovider", *asked[2:]],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (found,) = floors(tmp_path)
    assert (done.returncode, found.batch_size) == (0, 4), done.stdout + done.stderr
    (run,) = (tmp_path / "kept").glob("calibration-*/run-*")
    gate = ("--stack", python, "--baseline", str(run), "--repeats", "5", "--max-slowdown")
    refused = session(tmp_path, "suites/training", *asked, *gate, "0.1%")
    assert refused.status == 4 and f"is below the noise floor of '{SMOKE}': training differs" in refused.text
    assert "and 5 repeats beside 3 of the baseline can show" in refused.text


def test_scaling_is_measured_with_the_batch_of_its_row_on_any_machine(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(SMALL)
    given = Options(hw=str(tmp_path / "quick.toml"), hw_mismatch="run")
    row, *_ = load_cases(ROOT / "suites/distributed/test_scaling.toml")
    (entry,) = floors_of(sides(repeats(0.01, 4), repeats(0.01, 4, seed=1)), "machine")
    of_scaling = msgspec.structs.replace(entry, floors=(floor("scaling_efficiency", [0.9] * 3, [0.91, 0.9, 0.9]),))
    for asked, alone, scaled in ((None, 4, 32), (8, 8, 8)):
        options = msgspec.structs.replace(given, batch_size=asked)
        here = Session(options, ROOT, (), "run", None)
        assert (row.batch_size, measured_batch_size(entry, here, row)) == (32, alone)
        assert measured_batch_size(of_scaling, here, row) == scaled


# Stands in place of a subject that is asked for the second case, and never answers.
HANGS = """
if "other" in os.path.basename(sys.argv[-1]):
    import time
    time.sleep(600)
"""


@pytest.mark.outside
def test_what_was_whole_when_it_was_interrupted_is_kept(tmp_path: Path) -> None:
    tailed_stand_in(tmp_path)
    script = tmp_path / "answers" / "measured.py"
    source = script.read_text()
    script.write_text(source.replace("send(wire.STARTED", HANGS + "send(wire.STARTED", 1))
    row = ROW + "warmup_steps = 1\nsteps = 1\n"
    suites(tmp_path, row + row.replace('"mine"', '"other"'))
    running = subprocess.Popen(
        calibrate(tmp_path, "--repeats", "3"), cwd=tmp_path / "project",
        env=environment(tmp_path, PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    limit = time.monotonic() + 40
    while not list((tmp_path / "project" / "kept").glob("*/run-*/jobs/other-*.json")):
        assert time.monotonic() < limit and running.poll() is None
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)  # as ctrl-C does
    time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # and once more
    text = running.communicate(timeout=40)[0]
    assert running.returncode == 2 and "Traceback" not in text and "Kept in" in text, text
    assert [(one.case, one.floors[0].pairs) for one in floors(tmp_path)] == [("mine", 3)]
    (run,) = (tmp_path / "project" / "kept").glob("calibration-*/run-*")
    footer = read_run(run).footer
    assert footer is not None and footer.exit_status == 2 and not processes(tmp_path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with a cache of its own."""
    monkeypatch.setenv("TF_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run_here(place: Path, *of_stacks: tuple[Record, ...], **changes: Any) -> Path:
    """Write a run of this machine, of which both stacks are one."""
    records = sides(*of_stacks).records if len(of_stacks) > 1 else of_stacks[0]
    return write(place, head("aaaa", **{"host": identity(detect()), **changes}), records)


def test_an_earlier_run_of_a_stack_beside_itself_is_a_calibration(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--from", str(run_here(here, repeats(0.01, 4), repeats(0.01, 4, seed=1)))]) == 0
    (found,) = floors(here)
    assert (found.case, found.measured_at, found.machine) == (CASE, "2026-11-01T12:00:00+00:00", digest(detect()))
    assert main(["calibrate", "--show"]) == 0
    assert capsys.readouterr().out.count("median time a batch") == 2


def test_an_earlier_run_that_is_no_calibration_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = repeats(0.01, 4), repeats(0.01, 4, seed=1)
    told = {
        "has two pairs that could be measured": run_here(here / "one", pairs[0]),
        "was made on another machine": run_here(here / "other", *pairs, host={"sockets": 99}),
    }
    for sentence, run in told.items():
        assert main(["calibrate", "--from", str(run)]) == 4
        assert sentence in capsys.readouterr().err
    assert main(["calibrate", "suites/mine", "--from", "anything"]) == 4
    assert "--from measures nothing, and 'suites/mine' is to be measured" in capsys.readouterr().err
    assert not list(here.glob("cache/calibration/*.json"))


@pytest.mark.parametrize(
    ("ended", "pairs", "status", "kept"), [(3, 5, 3, 1), (3, 4, 3, 0), (2, 0, 2, 0), (1, 4, 0, 1), (0, 4, 0, 1)]
)
def test_the_status_is_that_of_a_session_that_was_cut_short(
    ended: int, pairs: int, status: int, kept: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_session(argv: Sequence[str]) -> int:
        if pairs:
            run_here(Path(argv[-1]), repeats(0.01, pairs), repeats(0.01, pairs, seed=1))
        return ended

    monkeypatch.setattr("conformance.commands.calibrate._session", fake_session)
    assert main(["calibrate", "--repeats", "5", "--output-dir", str(here)]) == status
    assert len(list(here.glob("cache/calibration/*.json"))) == kept


def test_nothing_calibrated_and_too_few_pairs_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFORMANCE_CACHE", str(tmp_path))
    assert main(["calibrate", "--show"]) == 4
    assert "Nothing was calibrated on this machine." in capsys.readouterr().err
    assert main(["calibrate", "--repeats", "2"]) == 4
    assert "--repeats 2 says nothing of noise; give 3 or more." in capsys.readouterr().err
