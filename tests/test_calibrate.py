"""The noise floor: what it is computed from, where it is kept, and the gate that asks for less."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import msgspec
import pytest
from comparison_examples import head, repeats, speed_stand_in, stack
from scipy import integrate, stats
from session_examples import ROOT, ROW, environment, suites

from conformance.cli import main
from conformance.commands.calibrate import floors_of
from conformance.errors import UsageError
from conformance.fixtures.floors import Calibrated, calibration_file, keep_floors, read_floors
from conformance.judging.change import POWER
from conformance.judging.floor import REPEATS, detectable, floor, refusal, repeats_needed
from conformance.records import Record, Run


@pytest.mark.parametrize("alpha", [0.05, 0.002])
@pytest.mark.parametrize(("repeats", "effect"), [(3, 3.07), (5, 2.02), (7, 1.63), (10, 1.32), (30, 0.74)])
def test_what_repeats_of_a_side_can_show_is_found_by_a_t_test_in_four_trials_of_five(
    repeats: int, effect: float, alpha: float
) -> None:
    """The power by its definition: the chance that a shifted normal beats the limit, over all estimates of its spread.

    ``effect`` is that of the published tables at 5 %, in standard deviations.
    """
    found = math.log1p(detectable(0.01, repeats, paired=False, alpha=alpha)) / 0.01
    freedom = 2 * repeats - 2
    limit = stats.t.ppf(1 - alpha / 2, freedom)

    def beats(squares: float) -> float:
        shown = stats.norm.cdf(found * math.sqrt(repeats / 2) - limit * math.sqrt(squares / freedom))
        return float(shown * stats.chi2.pdf(squares, freedom))

    assert integrate.quad(beats, 0, 40 + 4 * freedom)[0] == pytest.approx(POWER, abs=1e-4)
    assert alpha != 0.05 or found == pytest.approx(effect, abs=0.006)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("change", [0.01, 0.03, 0.2])
def test_the_repeats_that_it_takes_are_the_fewest(paired: bool, change: float) -> None:
    needed = repeats_needed(0.04, change, paired=paired)
    assert needed is not None
    assert detectable(0.04, needed, paired=paired) <= change
    assert needed == REPEATS[0] or detectable(0.04, needed - 1, paired=paired) > change


def test_a_change_that_no_number_of_repeats_shows_is_said_to_be_one() -> None:
    assert repeats_needed(1.0, 0.001, paired=True) is None


def test_the_floor_is_the_spread_of_the_pairs_and_not_what_they_have_in_common() -> None:
    draw = random.Random(5)
    common = [math.exp(draw.gauss(0, 0.2)) for _ in range(400)]
    base, new = ([c * math.exp(draw.gauss(0, 0.01)) for c in common] for _ in range(2))
    found = floor("latency_p50_s", base, new)
    assert found.pairs == 400 and found.pair_sd == pytest.approx(0.01 * math.sqrt(2), rel=0.1)
    assert found.side_sd == pytest.approx(0.2, rel=0.1)
    assert found.ratio_95 == pytest.approx(1.96 * 0.01 * math.sqrt(2), rel=0.15)
    assert len(found.detectable) == 28 and found.detectable[7] == detectable(found.pair_sd, 10, paired=True)
    assert list(found.detectable) == sorted(found.detectable, reverse=True)


def test_a_gate_below_the_floor_is_refused_with_the_repeats_that_it_takes() -> None:
    found = msgspec.structs.replace(floor("latency_p50_s", [1.0, 1.0, 1.0], [1.0, 1.1, 1.0]), pair_sd=0.05, pairs=10)
    needed = repeats_needed(0.05, 0.03, paired=True)
    assert refusal("a", found, 0.03, 10, paired=True) == (
        "--max-slowdown 3% is below the noise floor of 'a': median time a batch differs by 5.1 % from itself here "
        f"(10 pairs), and 10 repeats can show {100 * detectable(0.05, 10, paired=True):.1f} %; it would take {needed}."
    )
    assert needed is not None and refusal("a", found, 0.03, needed, paired=True) is None
    told = refusal("a", found, 0.03, 1, paired=True)
    assert told is not None and "1 repeat can show nothing" in told
    hopeless = refusal("a", msgspec.structs.replace(found, pair_sd=2.0), 0.001, 10, paired=True)
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
    with pytest.raises(UsageError, match=r"m\.json' cannot be read: .*machine|m\.json' cannot be read"):
        read_floors(file)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a suite of one case and a stand-in stack, calibrated with four pairs by the command."""
    import subprocess
    import sys

    place = tmp_path_factory.mktemp("calibrate")
    speed_stand_in(place, 0.01)
    suites(place, ROW + "warmup_steps = 1\nsteps = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "conformance.cli", "calibrate", "suites/mine", "--hw", "generic-cpu", "--repeats", "4",
         "--stack", str(place / "stack" / "bin" / "python"), "--output-dir", "kept", "--", "-p", "no:cacheprovider",
         "--hw-mismatch", "run"],
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
    assert middle.pairs == 4 and 0 < middle.pair_sd < 0.1
    text = (calibrated / "out.txt").read_text()
    assert "Smallest change that N pairs show, 80 % of the time at a p of 0.01" in text and "N=30" in text
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
    import subprocess
    import sys

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
    status, text = gate(calibrated, "--repeats", "4", "--max-slowdown", f"{100 * limit:.3f}%")
    assert status == 4 and "is below the noise floor of 'mine'" in text and "it would take" in text
    assert not (calibrated / "gates").exists() or not list((calibrated / "gates").glob("run-*"))


@pytest.mark.outside
def test_a_gate_above_the_floor_is_run(calibrated: Path) -> None:
    status, text = gate(calibrated, "--repeats", "6", "--max-slowdown", "50%")
    assert status == 0 and "noise floor" not in text, text


def test_nothing_calibrated_and_too_few_pairs_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFORMANCE_CACHE", str(tmp_path))
    assert main(["calibrate", "--show"]) == 4
    assert "Nothing was calibrated on this machine." in capsys.readouterr().err
    assert main(["calibrate", "--repeats", "2"]) == 4
    assert "--repeats 2 says nothing of noise; give 3 or more." in capsys.readouterr().err
