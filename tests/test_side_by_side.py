"""A case more than once: stacks in turns, repeats beside an earlier run, and how such sessions end.

The stacks are stand-ins: each answers a job at once, as fast as its ``SPEED`` says, and needs no TensorFlow.
"""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from session_examples import ROOT, ROW, Ended, command, environment, interpreter, session, stand_in, suites

from conformance.cases import Case
from conformance.fixtures.leases import KeptLeases
from conformance.fixtures.options import Options
from conformance.fixtures.side_by_side import more_than_once, orders
from conformance.launch.lease import Leases
from conformance.records import Comparison, Record

pytestmark = [pytest.mark.outside]

# Answers every job of the latency and accuracy cases; SPEED, FAILS and RIGHT are those of the stack.
STAND_IN = """
import json, os, random, sys
from conformance import wire

job = wire.read_job(sys.argv[-1])
a = job.arguments
label = os.path.basename(sys.argv[-1])

def send(kind, **fields):
    with open(job.events, "ab") as file:
        file.write(wire.event_line(kind, fields))

PROOF = {"native_share": 1.0, "kernels": [], "flop_per_image": 8.2e9, "error": None, "layers": [], "step_s": 0.01,
         "onednn": {"version": "3.7", "runtime": "threadpool", "isa": "AVX2"}}

def timed(arm):
    draws = random.Random(label + str(SPEED))
    step_s = [SPEED * (1 + 0.002 * draws.random()) for _ in range(20)]
    return {"name": arm["name"], "precision": arm["precision"], "warmup_steps": 2, "steady": True, "step_s": step_s,
            "block_mean_s": step_s, "gap_share": 0.0, "begun_s": 0.0, "ended_s": 1.0, "finite": True,
            "proof": PROOF if a["prove"] else None, "ceiling_before_flop_per_s": 1e12, "ceiling_after_flop_per_s": 1e12}

def judged():
    bits = bytes([0xFF] * RIGHT + [0] * (100 - RIGHT))
    with open(a["bits_path"], "wb") as file:
        file.write(bits)
    with open(a["answers_path"], "wb") as file:
        file.write(b"none")
    return {"images": 800, "top1_hits": 8 * RIGHT, "top5_hits": 800, "compute_s": 1.0, "elapsed_s": 2.0,
            "proof": PROOF, "network": "ResNet50 v1.5"}

send(wire.STARTED, tensorflow="2.99", threads={}, plugins=[])
if FAILS and FAILS in label:
    send(wire.FAILED, message="out of luck", hint="Try again.", refused=REFUSED, consequence=False)
    sys.exit(1)
if job.kind == wire.MEASURE:
    reading = {"steal_s": 0.0, "busy_s": 1.0, "own_s": 1.0, "elapsed_s": 1.0, "throttle_events": 0, "cpus": 1}
    result = {"arms": [timed(arm) for arm in a["arms"]], "reading": reading, "network": "ResNet50 v1.5"}
else:
    result = judged()
send(wire.RESULT, result=result)
"""


def stack(place: Path, speed: float, fails: str = "", refused: bool = False, right: int = 90) -> str:
    """Make a stand-in whose step takes ``speed`` seconds, and that fails in jobs whose name holds ``fails``."""
    place.mkdir()
    facts = f"SPEED, FAILS, REFUSED, RIGHT = {speed!r}, {fails!r}, {refused!r}, {right!r}"
    (place / "stand_in.py").write_text(f"{facts}\n{STAND_IN}")
    return interpreter(place, f'exec "$real" {place / "stand_in.py"} "$@"')


BAND = """
  [[case.band]]
  metric = "native_share"
  at_least = 0.9
  source = "the claim of the case"
"""
QUIET = """
name = "quiet"
description = "any machine, and never too noisy"
[machine]
[drive]
[counts]
max_steal_share = 1.0
max_foreign_share = 1.0
max_spread = 1.0
max_ceiling_drift = 1.0
"""


def order_seed(case: str, first: Sequence[str]) -> str:
    """Return an order seed by which these begin the first rounds of a case of the stacks base and new."""
    for seed in range(1000):
        rounds = orders(("base", "new"), random.Random(f"{seed} mine {case}"))
        if [order[0] for order in islice(rounds, len(first))] == list(first):
            return str(seed)
    raise AssertionError("no such order")


NEW_FIRST = order_seed("mine", ["new"])

# What each session is asked; {slow} and so on are stacks.
ASKED: dict[str, tuple[str, ...]] = {
    "slower": ("--stack", "base={fast}", "--stack", "new={slow}", "--repeats", "6", "--order-seed", "7",
               "--junit-xml", "{place}/junit.xml"),
    "same": ("--stack", "new={fast}", "--stack", "base={other}", "--repeats", "6"),
    "few": ("--stack", "base={fast}", "--stack", "new={slow}", "--repeats", "3", "--strict"),
    "crashes": ("--stack", "base={fast}", "--stack", "new={crashing}", "--repeats", "6"),
    "refuses": ("--stack", "base={refusing}", "--stack", "new={refusing_too}", "--repeats", "6"),
    "three": ("--stack", "a={fast}", "--stack", "b={slow}", "--stack", "c={other}", "--repeats", "2",
              "--max-repeats", "12"),
    "repeats": ("--stack", "mine={fast}", "--repeats", "6"),
    "no_input": ("--stack", "base={no_graph}", "--stack", "new={fast}", "--order-seed", NEW_FIRST),
}  # fmt: skip


OF_ACCURACY = """
[[case]]
id = "right"
model = "resnet50_v1_5"
mode = "accuracy"
precision = "fp32"
dataset = "imagenet"
batch_size = 100
source = "a README"
"""


class Sessions:
    """Sessions that were asked for by name, each run once, several at a time."""

    def __init__(self, root: Path) -> None:
        self.root, self.project = root, suites(root, ROW + BAND)
        (root / "any.pb").write_text("never read")
        (root / "quiet.toml").write_text(QUIET)
        self.stacks = {
            "fast": stack(root / "fast", 0.010),
            "other": stack(root / "other", 0.010001),
            "slow": stack(root / "slow", 0.015),
            "crashing": stack(root / "crashing", 0.010, fails="repeat3"),
            "refusing": stack(root / "refusing", 0.010, fails="repeat", refused=True),
            "less_right": stack(root / "less_right", 0.010, right=80),
            "refusing_too": stack(root / "refusing_too", 0.010, fails="repeat", refused=True),
            "no_graph": stack(root / "no_graph", 0.010, fails="freeze"),
        }

    def run(self, name: str, argv: Sequence[str]) -> Ended:
        place = self.root / name
        given = [word.format(**self.stacks, place=place) for word in argv]
        place.mkdir()
        given_graph = () if name == "no_input" else ("--in-graph", str(self.root / "any.pb"))
        fixed = (*given_graph, "--hw", str(self.root / "quiet.toml"), "-k", "mine")
        return session(place, "suites", *fixed, *given, cwd=self.project)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    return Sessions(tmp_path_factory.mktemp("side"))


@pytest.fixture(scope="module")
def ended(sessions: Sessions) -> Callable[[str], Ended]:
    with ThreadPoolExecutor(3) as pool:
        found = dict(zip(ASKED, pool.map(sessions.run, ASKED, ASKED.values()), strict=True))
    return found.__getitem__


def jobs(ended: Ended) -> dict[str, dict[str, Any]]:
    (directory,) = ended.runs.glob("run-*/jobs")
    return {path.stem: json.loads(path.read_text()) for path in directory.glob("*.json")}


def compared(ended: Ended) -> Comparison:
    (comparison,) = ended.run.comparisons
    return comparison


def turns(records: Sequence[Record]) -> str:
    return " ".join(f"{record.stack}{record.repeat}" for record in records)


def test_a_slower_stack_regresses_and_the_session_fails(ended: Callable[[str], Ended]) -> None:
    slower = ended("slower")
    comparison = compared(slower)
    assert (slower.status, comparison.verdict, comparison.paired) == (1, "regressed", True), slower.text
    assert (comparison.base, comparison.new, comparison.case, comparison.suite) == ("base", "new", "mine", "mine")
    found = {change.metric: change for change in comparison.changes}
    assert found["latency_p50_s"].ratio == pytest.approx(1.5, rel=0.01) and comparison.changes[0].p is not None
    assert found["throughput_images_per_s"].ratio == pytest.approx(1 / 1.5, rel=0.01)
    assert len(found["latency_p50_s"].base_values) == len(found["latency_p50_s"].new_values) == 6
    (line,) = [line for line in slower.text.splitlines() if line.startswith("   regressed  mine  base -> new  ")]
    assert "median time a batch: 10.0" in line and "6 pairs: regressed, p = 0.0022, allowed is 3 %." in line
    assert "1 regressed" in slower.text and "Traceback" not in slower.text


def test_every_repeat_of_every_stack_is_a_record_in_the_order_of_the_turns(ended: Callable[[str], Ended]) -> None:
    records = ended("slower").run.records
    order = turns(records)
    assert re.fullmatch(r"((base(\d) new\3|new(\d) base\4) ?){6}", order), order
    for first, second in ((1, 2), (3, 4), (5, 6)):
        began = {number: order.index(f"base{number}") < order.index(f"new{number}") for number in (first, second)}
        assert began[first] != began[second], order  # A B B A
    assert {record.case for record in records} == {"mine"} and {record.worker for record in records} == {None}
    assert len({record.stack_digest for record in records}) == 1  # the stand-ins are one interpreter


def test_the_order_is_that_of_its_seed(ended: Callable[[str], Ended]) -> None:
    first, second, other = (list(islice(orders("ABC", random.Random(seed)), 20)) for seed in ("7 a", "7 a", "8 a"))
    assert first == second != other
    assert all(one == two[::-1] for one, two in zip(first[::2], first[1::2], strict=True))
    assert {"".join(one) for one in first} == {"ABC", "ACB", "BAC", "BCA", "CAB", "CBA"}
    drawn = ended("same").run
    assert compared(ended("slower")).order_seed == ended("slower").run.header.order_seed == 7
    assert drawn.header.order_seed == drawn.comparisons[0].order_seed is not None
    assert ended("repeats").run.header.order_seed is None


def test_all_turns_have_the_same_cores_and_inputs_and_one_proof_each(ended: Callable[[str], Ended]) -> None:
    slower = ended("slower")
    records = slower.run.records
    assert len({record.launched[0].cpus for record in records}) == 1
    assert len({record.inputs["graph"].sha256 for record in records}) == 1
    asked = {name: job["arguments"]["prove"] for name, job in jobs(slower).items()}
    assert {name for name, prove in asked.items() if prove} == {"mine-base-repeat1", "mine-new-repeat1"}
    assert len(asked) == 12 and {record.metrics["native_share"] for record in records} == {1.0}


def test_junit_tells_the_comparison(sessions: Sessions, ended: Callable[[str], Ended]) -> None:
    ended("slower")
    (test,) = ElementTree.parse(sessions.root / "slower/junit.xml").iter("testcase")
    told = {p.attrib["name"]: p.attrib["value"] for p in test.iter("property")}
    assert told["comparison base -> new"].startswith("regressed: median time a batch: 10.0")
    (failure,) = test.iter("failure")
    assert failure.attrib["message"].startswith("Failed: regressed: base -> new: median time a batch")


def test_equal_stacks_are_the_same_and_the_one_named_base_is_the_base(ended: Callable[[str], Ended]) -> None:
    same = ended("same")
    comparison = compared(same)
    assert (same.status, comparison.verdict) == (0, "same"), same.text
    assert (comparison.base, comparison.new) == ("base", "new")
    assert comparison.reason.endswith("6 pairs: same, the interval is within 3 %.")
    footer = same.run.footer
    assert footer is not None and footer.counts["unjudged"] == 12 and "1 same, 0 improved" in same.text


def test_too_few_repeats_are_inconclusive_which_strict_makes_a_status_of_its_own(ended: Callable[[str], Ended]) -> None:
    few = ended("few")
    assert (few.status, compared(few).verdict) == (6, "inconclusive"), few.text
    assert "--strict: base -> new: median time a batch" in few.text and "which takes 5 pairs." in few.text


def test_a_stack_that_fails_loses_nothing_that_was_measured(ended: Callable[[str], Ended]) -> None:
    crashes = ended("crashes")
    comparison = compared(crashes)
    assert (crashes.status, comparison.verdict) == (1, "invalid"), crashes.text
    assert comparison.reason == "Stack 'new' has no repeat 3: out of luck Hint: Try again."
    found = {f"{r.stack}{r.repeat}": r.verdict for r in crashes.run.records}
    assert found["new3"] == "invalid" and {found[f"{name}{n}"] for name in ("base", "new") for n in (1, 2)} == {
        "unjudged"
    }
    assert len(comparison.changes[0].base_values) == 2 and len(found) in (5, 6)


def test_what_all_stacks_refuse_alike_is_wrong_usage(ended: Callable[[str], Ended]) -> None:
    refuses = ended("refuses")
    assert refuses.status == 4 and "out of luck Hint: Try again." in refuses.text
    assert [record.verdict for record in refuses.run.records] == ["not run", "not run"]
    assert compared(refuses).verdict == "invalid"


def test_an_input_that_was_not_made_is_the_fault_of_the_stack_that_makes_it(ended: Callable[[str], Ended]) -> None:
    found = ended("no_input")
    (first, _) = found.run.records
    assert (first.stack, first.verdict, found.status) == ("new", "invalid", 1), found.text
    assert first.reason == "Stack 'base', which makes this input for all, failed: out of luck Hint: Try again."


def test_repeats_of_three_stacks_are_added_until_all_is_decided(ended: Callable[[str], Ended]) -> None:
    three = ended("three")
    found = {(one.base, one.new): one.verdict for one in three.run.comparisons}
    assert found == {("a", "b"): "regressed", ("a", "c"): "same"}, three.text
    repeats = max(record.repeat for record in three.run.records)
    assert 6 <= repeats < 12 and len(three.run.records) == 3 * repeats


def test_accuracy_is_compared_by_the_answers_to_the_same_images_in_one_repeat(sessions: Sessions) -> None:
    suite, data = sessions.project / "suites/right", sessions.root / "data"
    suite.mkdir()
    data.mkdir()
    (data / "validation-00000-of-00001").write_bytes(b"never read")
    (suite / "test_accuracy.py").write_text((ROOT / "suites/inference/test_accuracy.py").read_text())
    (suite / "test_accuracy.toml").write_text(OF_ACCURACY)
    given = ("--stack", "base={fast}", "--stack", "new={less_right}", "--repeats", "6", "--data-location", str(data))
    ended = sessions.run("accuracy", (*given, "-k", "right"))
    (change,) = compared(ended).changes
    assert (ended.status, compared(ended).verdict, len(ended.run.records)) == (1, "regressed", 2), ended.text
    assert (change.metric, change.base, change.new) == ("top1", 0.9, 0.8)
    assert "of which the base alone is right on 80 and the new side alone on 0: regressed" in change.text
    assert "right  run once, for answers to the same images need no repeats: top-1 0.8000" in ended.text
    assert all("Run once, for answers to the same images need no repeats." in r.notes for r in ended.run.records)
    without = sessions.run("not run", (*given[:6], "-k", "right"))
    assert (without.status, without.run.comparisons) == (5, ()), without.text
    assert [record.verdict for record in without.run.records] == ["not run", "not run"]
    (earlier,) = ended.runs.glob("run-*")
    (never,) = without.runs.glob("run-*")
    beside = ("--stack", "base={fast}", "-k", "right", "--baseline")
    went, absent = sessions.run("went", (*beside, str(earlier))), sessions.run("absent", (*beside, str(never)))
    assert (went.status, compared(went).verdict) == (1, "invalid"), went.text
    assert "It was not measured: " in compared(went).reason and "Give --data-location DIREC" in compared(went).reason
    assert (absent.status, compared(absent).verdict) == (5, "no baseline"), absent.text


class Interrupted(Sessions):
    """Sessions of which the stack 'hangs' works at its seventh repeat when a signal comes."""

    def run(self, name: str, argv: Sequence[str]) -> Ended:
        place = self.root / name
        given = [word.format(**self.stacks, place=place) for word in argv]
        fixed = ("--in-graph", str(self.root / "any.pb"), "--hw", str(self.root / "quiet.toml"), "-k", "mine")
        process = subprocess.Popen(
            command(place, "suites", *fixed, *given), cwd=self.project, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=environment(place, PYTHONPATH=str(ROOT)), start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(600):
                if (self.root / "hanging" / "here").exists():
                    break
                time.sleep(0.05)
            (self.root / "hanging" / "here").unlink()
            process.send_signal(signal.SIGINT)
            text, _ = process.communicate(timeout=30)
        finally:
            process.kill()
        return Ended(process.returncode, text, place / "runs")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    made = Interrupted(tmp_path_factory.mktemp("interrupted"))
    made.stacks["hangs"] = stack(made.root / "hanging", 0.015)
    script = made.root / "hanging" / "stand_in.py"
    waits = 'if "repeat7" in label:\n    open(os.path.join(os.path.dirname(__file__), "here"), "w").close()\n'
    script.write_text(
        script.read_text().replace("PROOF = {", f"{waits}    import time\n    time.sleep(60)\nPROOF = {{", 1)
    )
    return made


@pytest.mark.parametrize("asked", [("--repeats", "10"), ("--repeats", "5", "--max-repeats", "20")])
def test_an_interrupted_case_keeps_the_comparison_of_its_whole_pairs(
    asked: Sequence[str], interrupted: Sessions
) -> None:
    seed = order_seed("mine", [*("base", "new") * 3, "base"])
    given = ("--stack", "base={fast}", "--stack", "new={hangs}", "--order-seed", seed)
    ended = interrupted.run(f"pairs{asked[-1]}", (*given, *asked))
    comparison, run = compared(ended), ended.run
    assert ended.status == 2 and len(run.records) == 13, ended.text
    assert comparison.reason.startswith(f"Interrupted after pair 6 of {asked[-1]}. median time a batch: ")
    assert len(comparison.changes[0].base_values) == 6 and comparison.order_seed == run.header.order_seed == int(seed)
    # Both are judged by the tests that they were announced for: signs that are looked at often cannot tell yet.
    assert comparison.verdict == ("inconclusive" if "--max-repeats" in asked else "regressed")
    assert run.footer is not None and run.footer.counts["unjudged"] == 13
    assert f"run: {run.directory}" in ended.text and comparison.reason in ended.text


def test_an_interrupted_case_is_compared_with_the_earlier_run(
    interrupted: Sessions, ended: Callable[[str], Ended]
) -> None:
    (earlier,) = ended("repeats").runs.glob("run-*")
    given = ("--stack", "mine={hangs}", "--repeats", "10", "--baseline", str(earlier))
    found = interrupted.run("beside", given)
    assert found.status == 2 and len(found.run.records) == 6, found.text
    assert compared(found).reason.startswith("Interrupted after repeat 6 of 10. median time a batch: ")
    assert compared(found).verdict == "regressed" and compared(found).reason in found.text


TRAINED = """
def trained():
    steps = 12
    return {
        "steps": steps, "first_step": 0, "resumed_from": None, "stopped_by": "steps", "hopeless": None,
        "losses": [3.0 - 0.1 * step for step in range(steps)], "rates": [0.1] * steps, "step_s": [STEP_S] * steps,
        "wait_s": [0.0] * steps, "resident_bytes": [None, None], "evaluations": [], "correct": None, "reading": None,
        "kernels": [], "native_share": 1.0,
    }
"""


def test_a_training_has_the_next_seed_in_each_round_on_all_stacks(tmp_path: Path) -> None:
    stacks = [stand_in(tmp_path / name, f"STEP_S = {s}", TRAINED) for name, s in (("a", 1.0), ("b", 1.5))]
    asked = ("-k", "resnet50_v1_5-fp32-smoke", "--train-seed", "5", "--repeats", "5", "--hw-mismatch", "run")
    ended = session(tmp_path, "suites/training", "--stack", f"a={stacks[0]}", "--stack", f"b={stacks[1]}", *asked)
    (change, *_) = compared(ended).changes
    assert (change.metric, change.verdict, change.ratio) == ("training_images_per_s", "regressed", 1 / 1.5), ended.text
    seeds = {name: job["arguments"]["seed"] for name, job in jobs(ended).items()}
    case = ended.run.records[0].case
    assert seeds == {f"{case}-{name}-repeat{n}": 4 + n for name in "ab" for n in range(1, 6)}


def test_repeats_alone_are_records(ended: Callable[[str], Ended]) -> None:
    repeats = ended("repeats")
    assert repeats.status == 0 and turns(repeats.run.records) == "mine1 mine2 mine3 mine4 mine5 mine6", repeats.text
    assert repeats.run.comparisons == () and "mine, medians of 6: throughput 99." in repeats.text


def test_an_earlier_run_is_the_base(sessions: Sessions, ended: Callable[[str], Ended]) -> None:
    (earlier,) = ended("repeats").runs.glob("run-*")
    given = ("--stack", "mine={slow}", "--repeats", "6", "--baseline", str(earlier))
    slower, other = sessions.run("later", given), sessions.run("batch", (*given, "--batch-size", "2"))
    comparison = compared(slower)
    assert (slower.status, comparison.verdict, comparison.paired) == (1, "regressed", False), slower.text
    assert compared(other).verdict == "no baseline" and "with batch 1, and this run with batch 2" in other.text
    assert other.status == 0


def test_a_baseline_that_is_no_run_is_refused(sessions: Sessions) -> None:
    refused = sessions.run("nothing", ("--stack", "mine={fast}", "--baseline", "/no/run"))
    assert refused.status == 4 and "There is no run file '/no/run'" in refused.text and not refused.has_run


CASE = Case(id="c", model="resnet50_v1_5", mode="latency", precision="fp32", dataset="dummy", batch_size=1, source="s")


@pytest.mark.parametrize(
    ("options", "mode", "expected"),
    [
        ({}, "latency", False),
        ({"repeats": 2}, "latency", True),
        ({"repeats": 2}, "training", False),
        ({"stack": ("a", "b")}, "training", True),
        ({"stack": ("a",)}, "latency", False),
        ({"baseline": "runs/a"}, "training", True),
    ],
)
def test_a_training_that_is_only_repeated_is_one_measurement(
    options: dict[str, Any], mode: Any, expected: bool
) -> None:
    from msgspec.structs import replace

    assert more_than_once(Options(**options), replace(CASE, mode=mode)) == expected


def test_leases_are_kept_between_launches_and_given_back(tmp_path: Path) -> None:
    first, second = frozenset({0}), frozenset({1})
    others = Leases(tmp_path)
    kept = KeptLeases(Leases(tmp_path))
    with kept.hold([first, second]) as index:
        assert index == 0
    with others.hold([first, second]) as index:
        assert index == 1  # the other core is still held
    with kept.hold([first | second]) as index:
        assert index == 0
    with kept.hold([first, second]) as index:
        assert index == 0
    with others.hold([first, second]) as index:
        assert index == 1
    kept.release()
    with others.hold([first]) as index:
        assert index == 0
