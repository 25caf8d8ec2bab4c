"""Runs made at different times: what is compared, what is refused, and what the ceiling has to say."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from comparison_examples import CASE, TEMPLATE, head, repeats, stack, write
from launch_examples import MACHINE, xeon
from report_examples import accuracy, footer, not_run

from conformance.cli import main
from conformance.judging.differences import differences, facts
from conformance.judging.runs import compare_case, compare_run, compare_stacks
from conformance.launch.layout import Ranks
from conformance.launch.placement import Request
from conformance.launch.ranks import compose_ranks
from conformance.records import Artefact, Comparison, Launched, Record, Run
from conformance.records.accepted import Baseline, accept
from conformance.records.run_file import RunWriter, read_run
from conformance.reports.changes import COLUMNS, changes_csv
from conformance.reports.markdown import compared, escaped, markdown


def run(records: tuple[Record, ...], name: str = "aaaa", day: int = 1, place: str = "runs", **changes: Any) -> Run:
    header = head(name, day, **changes)
    return Run(directory=f"{place}/{header.run}", header=header, records=records, footer=None)


def beside(base: tuple[Record, ...], new: tuple[Record, ...], **options: Any) -> Comparison:
    """Compare the only case of two runs of one machine."""
    options = {"max_slowdown": 0.03, **options}
    (comparison,) = compare_run(Baseline(run(base)), run(new, "bbbb", 2), **options)
    return comparison


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {change.metric: change.verdict for change in comparison.changes}


def share_of_the_ceilings(comparison: Comparison) -> float:
    """Return the ratio as share of the ceilings that the reason tells, to a hundredth."""
    found = re.search(r"as share of them it is ([0-9.]+) ", comparison.reason)
    assert found is not None, comparison.reason
    return round(float(found[1]), 2)


def test_the_seeds_of_one_record_are_its_repeats() -> None:
    def trained(step_s: float, seed: int) -> tuple[Record, ...]:
        of_each = [record.metrics for record in repeats(step_s, 6, seed=seed)]
        each = {name: tuple(metrics[name] for metrics in of_each) for name in of_each[0]}
        return (msgspec.structs.replace(repeats(step_s, 1)[0], each=each),)

    assert beside(trained(0.0100, 0), trained(0.0150, 1)).verdict == "regressed"
    assert beside(trained(0.0100, 0), repeats(0.0100, 6, seed=1)).verdict == "same"


def test_a_slow_down_of_eight_percent_in_ten_repeats_is_regressed_and_named_with_both_runs() -> None:
    found = beside(repeats(0.0100), repeats(0.0108, seed=1))
    assert (found.verdict, found.paired) == ("regressed", False)
    assert found.base == "tf of run-20261101-120000-aaaa" and found.new == "tf of run-20261102-120000-bbbb"
    assert set(verdicts(found).values()) == {"regressed"}
    change = next(change for change in found.changes if change.metric == "latency_p50_s")
    assert change.ratio == pytest.approx(1.08, abs=0.01) and len(change.base_values) == len(change.new_values) == 10


def test_the_same_again_is_the_same() -> None:
    assert beside(repeats(0.0100), repeats(0.0100, seed=1)).verdict == "same"


def test_one_run_against_one_decides_nothing_and_says_how_many_would() -> None:
    found = beside(repeats(0.0100, 1), repeats(0.0150, 1, seed=1))
    assert found.verdict == "inconclusive" and "takes 5 repeats" in found.reason


def test_a_slower_hour_is_not_a_regression() -> None:
    found = beside(repeats(0.0100), repeats(0.0110, seed=1, ceiling=2.6e12 / 1.1))
    assert found.verdict == "inconclusive"
    assert "the ceilings differ, new / base 0.9" in found.reason and share_of_the_ceilings(found) == 1.0
    assert "--stack base=NAME --stack new=NAME" in found.reason
    assert verdicts(found)["ceiling_share"] == "same"


def test_a_faster_hour_hides_no_regression() -> None:
    found = beside(repeats(0.0100), repeats(0.0100, seed=1, ceiling=2.6e12 * 1.1))
    assert found.verdict == "inconclusive" and share_of_the_ceilings(found) == 1.1
    assert verdicts(found)["ceiling_share"] == "inconclusive"  # only as long as the speed does not say so too


def test_slower_than_the_slower_hour_is_a_regression() -> None:
    found = beside(repeats(0.0100), repeats(0.0121, seed=1, ceiling=2.6e12 / 1.1))
    assert found.verdict == "regressed" and "Confirmed: the ceilings differ" in found.reason


def test_a_higher_ceiling_alone_makes_no_case_worse() -> None:
    found = beside(repeats(0.0100), repeats(0.0100, seed=1, ceiling=2.6e12 * 1.05))
    assert "regressed" not in verdicts(found).values() and found.verdict != "regressed"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch_size": 2}, "measured 'fp32-latency-b1' with batch 2, and this run with batch 1."),
        ({"profile": "small-cpu"}, "was driven as profile 'small-cpu' says, and this run as 'xeon-8s'."),
        ({"case": "other"}, "holds no record of 'fp32-latency-b1'."),
        ({"suite": "training"}, "holds no record of 'fp32-latency-b1'."),
        ({"verdict": "invalid", "metrics": {}, "reason": "The subject was killed."},
         "has not measured 'fp32-latency-b1': The subject was killed."),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_has_no_baseline_and_says_why(changes: dict[str, Any], reason: str) -> None:
    found = beside(repeats(0.01, **changes), repeats(0.01, seed=1))
    assert (found.verdict, found.reason) == ("no baseline", f"run-20261101-120000-aaaa {reason}")
    assert found.changes == ()


def test_a_case_that_another_machine_measured_has_no_baseline() -> None:
    host = {**head("x").host, "sockets": 2}
    new = repeats(0.01, seed=1)
    found = compare_case(Baseline(run(repeats(0.01), host=host)), run(new, "bbbb", 2), new, max_slowdown=0.03)
    assert found.verdict == "no baseline"
    assert found.reason == "run-20261101-120000-aaaa was made on another machine: sockets 2 -> 8."


def test_a_driver_of_an_accelerator_is_software_and_makes_no_other_machine() -> None:
    hosts = [{**head("x").host, "accelerators": "8 x HL-205", "synapseai": version} for version in ("1.6.1", "1.7.0")]
    base, new = run(repeats(0.01), host=hosts[0]), run(repeats(0.01, seed=1), "bbbb", 2, host=hosts[1])
    (found,) = compare_run(Baseline(base), new, max_slowdown=0.03)
    assert found.verdict == "same" and "machine's synapseai 1.6.1 -> 1.7.0" in found.differences


@pytest.mark.parametrize("value", [math.nan, None])
def test_a_metric_that_a_repeat_has_not_is_invalid(value: float | None) -> None:
    base, new = repeats(0.01), repeats(0.01, seed=1)
    metrics = {name: v for name, v in new[3].metrics.items() if name != "latency_p50_s"}
    broken = msgspec.structs.replace(new[3], metrics=metrics if value is None else {**metrics, "latency_p50_s": value})
    found = beside(base, (*new[:3], broken, *new[4:]))
    assert found.verdict == "invalid" and "nan in repeat 4 of the new side" in found.reason


def test_a_case_that_was_measured_and_is_not_any_more_is_invalid() -> None:
    gone = msgspec.structs.replace(TEMPLATE, metrics={}, verdict="not run", reason="No graph was given.")
    found = beside(repeats(0.01), (gone,))
    assert found.verdict == "invalid" and "missing from the new side" in found.reason


def test_cases_that_neither_run_measured_are_not_compared() -> None:
    nothing = (not_run("fp32-accuracy-imagenet", "no ImageNet"),)
    assert compare_run(Baseline(run(nothing)), run(nothing, "bbbb", 2), max_slowdown=0.03) == ()


def test_between_machines_only_ratios_are_compared() -> None:
    new = run(repeats(0.02, seed=1, profile="xeon-2s"), "bbbb", 2, host={**head("x").host, "sockets": 2})
    (found,) = compare_run(Baseline(run(repeats(0.01))), new, max_slowdown=0.03, cross_machine=True)
    assert list(verdicts(found)) == ["ceiling_share"]
    assert "machine's sockets 8 -> 2" in found.differences and "profile xeon-8s -> xeon-2s" in found.differences


def judged(place: Path, day: int, right: int, images: int = 1000, data: str | None = "ab", **changes: Any) -> Run:
    """Return a run of one accuracy case, whose first images were judged right."""
    name = str(day)
    directory = place / name / "artefacts"
    directory.mkdir(parents=True)
    np.packbits(np.arange(images) < right).tofile(directory / "a.bits")
    fields = {
        "stack": "tf", "metrics": {"top1": right / images, "top5": 0.99, "images": float(images)},
        "inputs": {"data": Artefact(path="/data", sha256=data)},
        "artefacts": {"correct_bits": Artefact(path="artefacts/a.bits")}, **changes,
    }  # fmt: skip
    record = msgspec.structs.replace(accuracy("fp32", right / images, 0.99), **fields)
    return msgspec.structs.replace(run((record,), name, day), directory=str(place / name))


def top1_beside(base: Run, new: Run) -> Comparison:
    (found,) = compare_run(Baseline(base), new, max_slowdown=0.03)
    return found


def test_answers_to_the_same_images_need_no_repeats(tmp_path: Path) -> None:
    base, worse, alike = judged(tmp_path, 1, 760), judged(tmp_path, 2, 720), judged(tmp_path, 3, 760)
    found = top1_beside(base, worse)
    assert found.verdict == "regressed" and "the base alone is right on 40" in found.reason
    assert top1_beside(base, alike).verdict == "same"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"artefacts": {}}, "without the answers to each image of new"),
        ({"data": None}, "nothing tells that the images are the same"),
        ({"inputs": {}}, "nothing tells that the images are the same"),
        ({"data": "cd"}, "the images are others"),
        ({"images": 40_000}, "the images are others"),
        ({"artefacts": {"correct_bits": Artefact(path="artefacts/gone.bits")}}, "cannot be read"),
        ({"artefacts": {"correct_bits": Artefact(path="artefacts/cut.bits")}}, "are 0, of 50,000 images"),
    ],
)
def test_an_accuracy_that_collapses_is_regressed_without_pairs_of_answers_too(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    base, images = judged(tmp_path, 1, 38_000, 50_000), changes.get("images", 50_000)
    collapsed = judged(tmp_path, 2, images // 10, **{"images": images, **changes})
    Path(collapsed.directory, "artefacts", "cut.bits").touch()
    found = top1_beside(base, collapsed)
    assert found.verdict == "regressed" and "which are not paired (" in found.reason and told in found.reason
    alike = judged(tmp_path, 3, images * 76 // 100, **{"images": images, **changes})
    assert top1_beside(base, alike).verdict == "same"


def test_a_top1_of_too_few_other_images_is_inconclusive(tmp_path: Path) -> None:
    found = top1_beside(judged(tmp_path, 1, 76, 100), judged(tmp_path, 2, 68, 100, data="cd"))
    assert found.verdict == "inconclusive" and "on 100 images against 100" in found.reason


def test_the_top1_of_several_seeds_is_judged_by_seeds_and_not_by_the_images_of_one(tmp_path: Path) -> None:
    each = {"top1": tuple(0.76 + seed / 1000 for seed in range(6))}
    base, new = (judged(tmp_path, day, 760, each=each) for day in (1, 2))
    assert "6 against 6 repeats" in top1_beside(base, new).reason


def test_layers_that_cannot_be_read_are_told_and_speeds_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = {"layers": Artefact(path="artefacts/l.csv")}
    base = write(tmp_path, head("aaaa", 1), repeats(0.0100, artefacts=layers))
    new = write(tmp_path, head("bbbb", 2), repeats(0.0150, seed=1, artefacts=layers))
    for directory in (base, new):
        (directory / "artefacts").mkdir()
        (directory / "artefacts" / "l.csv").write_text("order,layer,primitive\n1,2,3\n")
    assert main(["compare", str(base), str(new)]) == 1
    out = capsys.readouterr().out
    assert "differs: layers are not compared: " in out and "is no list of layers: its columns are order" in out


def test_a_run_that_was_interrupted_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head_of, records = head("aaaa", 1), repeats(0.01)
    writer = RunWriter.create(tmp_path, head_of)
    for record in records:
        writer.append(record)
    writer.finish(msgspec.structs.replace(footer(records), exit_status=2))
    new = write(tmp_path, head("bbbb", 2), repeats(0.01, seed=1))
    assert main(["compare", str(writer.directory), str(new)]) == 0
    base_line, new_line = capsys.readouterr().out.splitlines()[:2]
    assert base_line.endswith("profile xeon-8s; it was interrupted") and new_line.endswith("profile xeon-8s")


def test_the_stack_of_the_same_name_is_the_base_and_else_the_one_named_base() -> None:
    both = tuple(msgspec.structs.replace(r, stack=name) for name in ("other", "base", "tf") for r in repeats(0.01, 2))
    new = repeats(0.01, 2, seed=1)
    assert beside(both, new).base.startswith("tf of ")
    assert beside(both[:4], new).base.startswith("base of ")
    assert beside(both[:2], new).base.startswith("other of ")


def test_what_differs_is_told_software_first() -> None:
    started = Launched(argv=("python",), env={"OMP_NUM_THREADS": "28", "PYTHONPATH": "/a"}, cpus=(0, 1),
                       memory_nodes=(), inter_op_threads=1, intra_op_threads=2)  # fmt: skip
    other = msgspec.structs.replace(started, env={"OMP_NUM_THREADS": "14", "PYTHONPATH": "/b"})
    graph = {name: {"graph": Artefact(path="g.pb", sha256=name * 64)} for name in "ab"}
    base = repeats(0.01, 2, launched=(started,), inputs=graph["a"], loaded={"onednn": "3.3.0", "tensorflow": "2.15.1"})
    new = repeats(0.01, 2, launched=(other,), inputs=graph["b"], loaded={"onednn": "3.7.3", "tensorflow": "2.21.0"})
    one = run(base, stacks=stack("2.15.1", hashes={"numpy": "1" * 64}), environment={"KMP_BLOCKTIME": "1"})
    two = run(new, "bbbb", 2, stacks=stack("2.21.0", hashes={"numpy": "2" * 64}, plugins=["libitex_cpu.so"]))
    assert differences(one, base[0], two, new[1]) == (
        "TensorFlow 2.15.1 -> 2.21.0",
        "oneDNN 3.3.0 -> 3.7.3",
        "plugins none -> libitex_cpu.so",
        "variable KMP_BLOCKTIME 1 -> none",
        "variable OMP_NUM_THREADS 28 -> 14",
        "variable TF_ENABLE_ONEDNN_OPTS none -> 1",
        "graph aaaaaaaaaaaa -> bbbbbbbbbbbb",
        "package numpy 1.26.4 has other files: 111111111111 -> 222222222222",
    )
    assert differences(one, base[0], one, base[1]) == ()
    assert facts(one, base[0])["Python"] == "3.11.9"


def of_launches(mode: str, *launches: Launched) -> tuple[Run, Record]:
    (record,) = repeats(0.01, 1, launched=launches, mode=mode)
    return run((record,)), record


def test_instances_their_cpus_and_their_memory_are_told() -> None:
    one = Launched(argv=("p",), env={}, cpus=(0, 1), memory_nodes=(0,), inter_op_threads=1, intra_op_threads=2)
    other = msgspec.structs.replace(one, cpus=(2, 3), memory_nodes=(1,))
    alone, elsewhere, both = (of_launches("latency", *launches) for launches in ((one,), (other,), (one, other)))
    assert differences(*alone, *both) == ("instances 1 -> 2", "CPUs 0-1 -> 0-1 and 2-3", "memory nodes 0 -> 0 and 1")
    assert differences(*alone, *elsewhere) == ("CPUs 0-1 -> 2-3", "memory nodes 0 -> 1")
    assert differences(*both, *both) == ()
    # The launches of a training are its seeds, one after another.
    assert differences(*of_launches("training", one), *of_launches("training", one, one)) == ()


def test_ranks_of_two_runs_with_the_same_launch_differ_in_nothing(tmp_path: Path) -> None:
    host, ranks = xeon(2, 4), Ranks(world_size=2)
    made = [
        compose_ranks(
            "mpirun", "/opt/tf/bin/python", place / "jobs" / "case.json", place / "subject-path", place / "log", host,
            MACHINE, Request(), ranks, "fp32", {}, False, (),
        ).launched
        for place in (tmp_path / "one", tmp_path / "two")
    ]  # fmt: skip
    assert made[0].env != made[1].env
    assert differences(*of_launches("training", made[0]), *of_launches("training", made[1])) == ()


def test_a_level_that_was_accepted_is_judged_from(tmp_path: Path) -> None:
    base = read_run(write(tmp_path, head("aaaa", 1), repeats(0.0100)))
    slower = read_run(write(tmp_path, head("bbbb", 2), repeats(0.0110, seed=1)))
    third = read_run(write(tmp_path, head("cccc", 3), repeats(0.0110, seed=2)))
    assert compare_run(Baseline(base), third, max_slowdown=0.03)[0].verdict == "regressed"
    accept(slower, CASE, None, "the fix of the rounding costs this", "2026-11-03T08:00:00+00:00")
    (found,) = compare_run(Baseline(base), third, max_slowdown=0.03)
    assert (found.verdict, found.base) == ("same", f"tf of {slower.header.run}")
    told = f"everything is judged by the level accepted in {slower.header.run}: the fix of the rounding costs this"
    assert told in found.differences
    # Only what was made before it.
    (found,) = compare_run(Baseline(third), slower, max_slowdown=0.03)
    assert found.base == f"tf of {third.header.run}"


def test_a_level_of_one_metric_leaves_the_others_where_they_were(tmp_path: Path) -> None:
    base = read_run(write(tmp_path, head("aaaa", 1), repeats(0.0100)))
    slower = read_run(write(tmp_path, head("bbbb", 2), repeats(0.0110, seed=1)))
    accept(slower, CASE, "latency_p50_s", "the median may be this", "2026-11-03T08:00:00+00:00")
    (found,) = compare_run(Baseline(base), slower, max_slowdown=0.03)
    assert verdicts(found)["latency_p50_s"] == "same" and verdicts(found)["throughput_images_per_s"] == "regressed"
    assert found.verdict == "regressed"  # the throughput is watched
    assert [change.metric for change in found.changes].count("latency_p50_s") == 1


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    base = write(tmp_path, head("aaaa", 1, stacks=stack("2.15.1")), repeats(0.0100))
    return base, write(tmp_path, head("bbbb", 2, stacks=stack("2.21.0")), repeats(0.0108, seed=1))


def test_the_command_tells_what_differs_then_the_verdict_and_exits_as_a_gate(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, new = map(str, two)
    md, table = tmp_path / "out" / "a.md", tmp_path / "out" / "a.csv"
    assert main(["compare", base, new, "--md", str(md), "--csv", str(table)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("base  run-20261101-120000-aaaa") and lines[1].startswith("new   run-20261102")
    assert lines[2:4] == ["differs: TensorFlow 2.15.1 -> 2.21.0", ""]
    assert lines[4] == f"   regressed  inference {CASE}" and "1 regressed." in lines
    assert (
        "| regressed | fp32-latency-b1<br>" in md.read_text() and "- TensorFlow 2.15.1 -&gt; 2.21.0" in md.read_text()
    )
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and {row["verdict"] for row in rows} == {"regressed"}
    (found,) = compare_run(Baseline(read_run(two[0])), read_run(two[1]), max_slowdown=0.03)
    assert [float(row["ratio"]) for row in rows] == [change.ratio for change in found.changes]

    assert main(["compare", base, base]) == 0
    assert main(["compare", base, new, "--max-slowdown", "15%"]) == 0
    assert main(["compare", base, new, "--max-slowdown", "8%"]) == 5  # neither slower than that nor surely not
    assert main(["compare", base, base, new, "--max-slowdown", "8%"]) == 0
    assert main(["compare", base, base, new, "--max-slowdown", "8%", "--strict"]) == 6
    assert main(["compare", base, base, new]) == 1


def test_cases_that_are_in_the_base_only_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = tuple(msgspec.structs.replace(record, case="int8-latency-b1") for record in repeats(0.004, 2))
    base = write(tmp_path, head("aaaa", 1), (*repeats(0.01), *more))
    new = write(tmp_path, head("bbbb", 2), repeats(0.01, seed=1))
    assert main(["compare", str(base), str(new)]) == 0
    assert "  not in new  inference int8-latency-b1" in capsys.readouterr().out


def test_runs_of_different_machines_are_refused_with_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write(tmp_path, head("aaaa", 1), repeats(0.01))
    new = write(tmp_path, head("bbbb", 2, host={**head("x").host, "sockets": 2}), repeats(0.01, seed=1))
    assert main(["compare", str(base), str(new)]) == 4
    error, hint = capsys.readouterr().err.splitlines()
    assert error == (
        "error: run-20261101-120000-aaaa and run-20261102-120000-bbbb were made on different machines: sockets 8 -> 2."
    )
    assert "--cross-machine" in hint


@pytest.mark.parametrize(
    ("ceiling", "status", "verdict"), [(2.6e12, 0, "same"), (2e12, 0, "improved"), (4e12, 1, "regressed")]
)
def test_between_machines_the_share_of_the_ceiling_decides(
    tmp_path: Path, ceiling: float, status: int, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write(tmp_path, head("aaaa", 1), repeats(0.01, 6))
    host = {**head("x").host, "sockets": 2}
    new = write(tmp_path, head("bbbb", 2, host=host), repeats(0.01, 6, ceiling=ceiling, seed=1))
    assert main(["compare", str(base), str(new), "--cross-machine", "--strict"]) == status
    assert f"{verdict:>12}  inference {CASE}" in capsys.readouterr().out


def test_a_case_without_ratios_has_no_baseline_on_another_machine() -> None:
    speeds = {"metrics": {"latency_p50_s": 0.01}}
    new = run(repeats(0.01, **speeds), "bbbb", 2, host={**head("x").host, "sockets": 2})
    (found,) = compare_run(Baseline(run(repeats(0.01, **speeds))), new, max_slowdown=0.03, cross_machine=True)
    assert (found.verdict, found.changes) == ("no baseline", ())
    assert found.reason == "Machines are compared by ratios and accuracies, and 'fp32-latency-b1' has neither."


def turns(*step_s: float) -> tuple[Record, ...]:
    """Return repeats of two stacks that took turns, the last of them without its pair."""
    sides = zip(("base", "new"), (repeats(each, 7, seed=seed) for seed, each in enumerate(step_s)), strict=True)
    found = [msgspec.structs.replace(record, stack=name) for name, side in sides for record in side]
    return tuple(sorted(found, key=lambda record: record.repeat))[:-1]


def test_the_stacks_of_a_run_that_was_killed_are_compared_by_their_whole_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stacks = {"base": stack()["tf"], "new": stack("2.21.0")["tf"]}
    killed = write(tmp_path, head("aaaa", stacks=stacks, order_seed=7), turns(0.010, 0.015))
    assert main(["compare", str(killed)]) == 1
    told = capsys.readouterr().out
    assert "regressed  inference fp32-latency-b1, base -> new" in told and "6 pairs: regressed, p = 0.0" in told
    assert "differs: TensorFlow 2.15.1 -> 2.21.0" in told
    (comparison,) = compare_stacks(read_run(killed), max_slowdown=0.6)
    assert (comparison.verdict, comparison.order_seed, comparison.paired) == ("same", 7, True)


def test_what_a_session_said_of_its_stacks_is_not_judged_again() -> None:
    slower = run(turns(0.010, 0.015), stacks={"base": {}, "new": {}})
    (judged,) = compare_stacks(slower, max_slowdown=0.03)
    said = msgspec.structs.replace(judged, verdict="inconclusive", reason="as it was said")
    assert compare_stacks(msgspec.structs.replace(slower, comparisons=(said,)), max_slowdown=0.03) == (said,)


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ("compare RUN", "is one run of one stack."),
        ("compare RUN RUN --max-slowdown lots", "Argument --max-slowdown: 'lots' is not allowed"),
        ("compare RUN nowhere", "There is no run file 'nowhere'."),
        ("accept RUN --case other --reason x", "Unknown case 'other'; known: fp32-latency-b1."),
        ("accept RUN --case fp32-latency-b1 --metric top1 --reason x", "Unknown metric 'top1'"),
        ("accept RUN --case fp32-latency-b1 --reason= ", "The reason '' says nothing, or not in one line."),
        ("accept RUN --case fp32-latency-b1", "The following arguments are required: --reason."),
    ],
)
def test_a_mistake_is_one_sentence(
    two: tuple[Path, Path], argv: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("RUN", str(two[0])) for word in argv.split()]) == 4
    assert error in capsys.readouterr().err.splitlines()[0]


def test_an_accepted_run_that_is_gone_is_told(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    base, new = two
    (base.parent / "accepted.toml").write_text(
        f'[[accepted]]\nrun = "run-gone"\ncase = "{CASE}"\nreason = "x"\naccepted_at = "2026-12-01T00:00:00+00:00"\n'
    )
    assert main(["compare", str(base), str(new)]) == 4
    assert "accepts 'fp32-latency-b1' as in 'run-gone', and that run is not there." in capsys.readouterr().err


def test_hostile_names_are_shown_and_do_nothing() -> None:
    name = "<script>alert(1)</script> | `x` [a](http://b) *c*\n# d"
    bad = tuple(msgspec.structs.replace(r, case=name, reason=name, verdict="outside") for r in repeats(0.01, 2))
    found = beside(bad, bad)
    for text in (compared((found,)), markdown([run(bad)])):
        assert "<script>" not in text and "\n#" not in text.replace("\n###", "") and "[a](" not in text
        rows = [line for line in text.splitlines() if "script" in line]
        assert rows and all(
            row.count("|") - row.count("\\|") == rows[0].count("|") - rows[0].count("\\|") for row in rows
        )
    assert escaped("a\nb") == "a b"


def test_a_run_in_markdown_counts_its_verdicts_and_shows_the_gravest_first() -> None:
    slow = tuple(msgspec.structs.replace(r, verdict="outside", reason="Too slow.") for r in repeats(0.01, 3))
    text = markdown([run((*repeats(0.02, 1, case="fp32-b"), *slow))])
    lines = text.splitlines()
    assert lines[0] == "### run-20261101-120000-aaaa"
    assert lines[2].startswith("1 inside, 1 outside, 0 unjudged, 0 unstable, 0 invalid, 0 not run; it did not end")
    cells = [line.split(" | ") for line in lines[-2:]]
    assert cells[0][0] == "| outside" and cells[0][1] == "fp32-latency-b1 × 3" and cells[0][3] == "Too slow. |"
    assert cells[1][0] == "| inside" and "throughput 50" in cells[1][2]


def test_the_csv_of_a_comparison_without_changes_has_one_row() -> None:
    from conformance.reports.changes import change_rows

    found = beside(repeats(0.01, case="a"), repeats(0.01))
    (row,) = change_rows("run-x", (found,))
    assert row["verdict"] == "no baseline" and "holds no record" in str(row["text"])
    assert changes_csv([row]).splitlines()[0] == ",".join(COLUMNS)


def test_layers_with_another_kernel_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    from conformance.commands.compare import _print_case
    from conformance.records import KernelChange

    changed = tuple(
        KernelChange(layer=f"layer {i}", base="brgconv:avx512_core_amx", new="gemm:ref", base_share=0.1, new_share=0.4)
        for i in range(12)
    )
    found = msgspec.structs.replace(beside(repeats(0.01), repeats(0.02, seed=1)), kernels=changed)
    _print_case(found, ())
    out = capsys.readouterr().out
    assert "layer 0: brgconv:avx512_core_amx (10.0 % of a step) -> gemm:ref (40.0 % of a step)" in out
    assert "2 layers more have another kernel" in out
    assert "- fp32-latency-b1: layer 2: brgconv:avx512\\_core\\_amx" in compared((found,))
