"""The distributed suite from the outside: real launches of ranks, with stand-ins that answer at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ranks_sessions import BIN, WITH_HOROVOD
from session_examples import Ended, interpreter, session, stand_in

from conformance.fixtures.scaling import ORDER

pytestmark = [pytest.mark.outside, *WITH_HOROVOD]

# What rank 0 answers; ANSWER is what is not usual.
TRAINED = """
def trained():
    size = a["ranks"]["world_size"] if a.get("ranks") else 1
    steps = a["max_train_steps"] or 24
    step_s = ANSWER["step_s"][str(size)]
    losses = [3.0 - 0.02 * step + (ANSWER["off"] if size > 1 and step == 5 else 0) for step in range(steps)]
    told = {
        "rank": 0, "local_rank": 0, "host": "here", "pid": 1, "affinity": sorted(os.sched_getaffinity(0)),
        "examples_per_s": a["batch_size"] / step_s, "resident_bytes": 10**9, "step_s": [step_s] * steps,
        "wait_s": [0.0] * steps, "compute_s": [step_s / 2] * steps if size > 1 else [], "weights_sha256": "a" * 64,
    }
    ranks = [dict(told, rank=r, weights_sha256=("b" if r and ANSWER["differ"] else "a") * 64) for r in range(size)]
    top1 = ANSWER["top1"]
    evaluations = [
        {"step": 4 * n, "epoch": 4.0 * n, "top1_hits": hits, "top5_hits": 364, "images": 364}
        for n, hits in enumerate(top1, 1)
    ] if a["data"] else []
    times = {"init_start_ms": 1000, "init_stop_ms": 2000, "run_start_ms": 3000, "run_stop_ms": 90000,
             "evaluations": [[10000 * n, 10000 * n + 500] for n in range(1, len(evaluations) + 1)]}
    return {
        "steps": steps, "first_step": 0, "resumed_from": None, "stopped_by": ANSWER["stopped_by"], "losses": losses,
        "rates": [0.1] * steps, "step_s": [step_s] * steps, "wait_s": [0.0] * steps, "resident_bytes": [None, None],
        "evaluations": evaluations, "correct": "ff" * 46 if evaluations else None, "reading": None, "kernels": [],
        "native_share": 1.0, "hopeless": ANSWER["hopeless"], "times": times, "world_size": size, "ranks": ranks,
        "allreduce_s": 0.01 if size > 1 else None,
        "reductions": [[10**6, 0.001], [16 * 10**6, 0.009], [10**8, 0.051]] if size > 1 else [],
    }
"""
USUAL: dict[str, Any] = {
    "step_s": {"1": 1.0, "2": 1.1},
    "off": 0.0,
    "differ": False,
    "top1": [340, 356],
    "stopped_by": "threshold",
    "hopeless": None,
}


def answered(place: Path, case: str, *argv: str, **changes: Any) -> Ended:
    """Run a case of the suite with stand-ins, which answer as USUAL but for ``changes``."""
    usual = {**USUAL, **changes}
    stack = stand_in(place, f"ANSWER = {usual!r}", TRAINED)
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return session(place, "suites/distributed", "-k", case, "--stack", stack, "--hw", "small-cpu",
                   "--hw-mismatch", "run", "--oversubscribe", *argv, env={"PATH": path})  # fmt: skip


def judged(ended: Ended) -> dict[str, str]:
    (record,) = ended.run.records
    return {judgement.metric: judgement.verdict for judgement in record.judgements}


def test_ranks_are_judged_beside_one_rank_with_all_images_of_a_step(tmp_path: Path) -> None:
    ended = answered(tmp_path, "fp32-2-ranks-mpirun")
    (record,) = ended.run.records
    assert (record.verdict, ended.status) == ("inside", 0), ended.text
    assert record.metrics["loss_off_one_rank"] == record.metrics["weights_differ"] == 0
    assert record.metrics["global_images_per_s"] == pytest.approx(2 * 32 / 1.1)
    assert "training_images_per_s" not in record.metrics
    jobs = {
        path.stem: json.loads(path.read_text())["arguments"]
        for path in (Path(ended.run.directory) / "jobs").glob("resnet*.json")
    }
    (ranks, alone) = (
        jobs["resnet50_v1_5-fp32-2-ranks-mpirun"],
        jobs["resnet50_v1_5-digits-fp32-one-rank-training-reference-seed1"],
    )
    assert ranks["ranks"]["world_size"] == 2 and ranks["accumulate"] == 1
    assert alone["ranks"] is None and alone["accumulate"] == 2
    same = ("batch_size", "train_images", "seed", "schedule", "max_train_steps", "data")
    assert {name: ranks[name] for name in same} == {name: alone[name] for name in same}
    assert any(note.startswith("Rank 1 on here: ") for note in record.notes)


def test_a_loss_that_is_not_that_of_one_rank_is_outside(tmp_path: Path) -> None:
    ended = answered(tmp_path, "fp32-2-ranks-mpirun", off=0.01)
    assert ended.status == 1 and judged(ended)["loss_off_one_rank"] == "outside", ended.text
    assert ended.run.records[0].metrics["loss_off_one_rank"] == pytest.approx(0.01 / 2.9, rel=1e-6)


def test_ranks_that_end_with_other_weights_are_outside(tmp_path: Path) -> None:
    ended = answered(tmp_path, "bf16-2-ranks-mpirun", differ=True)
    if ended.run.records[0].verdict == "not run":
        pytest.skip("no instructions for bf16 here")
    assert ended.status == 1 and judged(ended)["weights_differ"] == "outside", ended.text


@pytest.mark.parametrize(("step_s", "verdict", "efficiency"), [(1.1, "inside", 1 / 1.1), (1.5, "outside", 1 / 1.5)])
def test_scaling_takes_turns_and_is_judged_by_its_efficiency(
    tmp_path: Path, step_s: float, verdict: str, efficiency: float
) -> None:
    ended = answered(tmp_path, "fp32-2-ranks-scaling", step_s={"1": 1.0, "2": step_s})
    (record,) = ended.run.records
    assert judged(ended) == {"scaling_efficiency": verdict}, ended.text
    assert record.metrics["scaling_efficiency"] == pytest.approx(efficiency)
    assert record.batch_size == 32
    events = sorted((Path(ended.run.directory) / "events").glob("*-block?.jsonl"), key=lambda path: path.name)
    sizes = [json.loads(path.read_text().splitlines()[-1])["result"]["world_size"] for path in events]
    assert sizes == [1 if turn == "A" else 2 for turn in ORDER]
    assert record.scaling is not None and [point.ranks for point in record.scaling.measured] == [1, 2]
    predicted = {point.ranks for point in record.scaling.predicted}
    assert predicted == {2, 8, 32} and "64 ranks: the link between hosts is not known" in record.scaling.assumptions[-1]


def test_the_gate_leaves_mlperfs_log_and_names_its_rules(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_logging")
    ended = answered(tmp_path, "digits-gate")
    (record,) = ended.run.records
    assert (record.verdict, ended.status) == ("inside", 0), ended.text
    log = (Path(ended.run.directory) / record.artefacts["mlperf_log"].path).read_text()
    assert (
        f'"key": "eval_accuracy", "value": {340 / 364}' in log and log.count('"eval_accuracy"') == 1
    )  # the first above 0.759
    (told,) = (note for note in record.notes if note.startswith("MLPerf"))
    assert "4.0, closed division" in told and "train_samples" in told and told.endswith("Not an official result.")


def test_a_hopeless_run_is_outside_and_says_why_it_was_stopped(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_logging")
    why = "At epoch 8 top-1 is 0.1, and less than 0.6 is hopeless: made up."
    ended = answered(tmp_path, "digits-gate", top1=[30, 36], hopeless=why, stopped_by="early check")
    assert ended.status == 1 and judged(ended)["top1"] == "outside", ended.text
    assert why in ended.run.records[0].notes


def test_one_rank_alone_has_nothing_to_scale_to(tmp_path: Path) -> None:
    ended = answered(tmp_path, "fp32-2-ranks-scaling", "--mpi-num-processes", "1")
    assert (ended.status, ended.run.records[0].verdict) == (5, "not run"), ended.text
    assert "Scaling needs 2 ranks or more, and --mpi-num-processes is 1." in ended.run.records[0].reason


def test_ranks_without_horovod_are_not_run_with_what_the_build_said(tmp_path: Path) -> None:
    stack = tmp_path / "bare" / "bin" / "python"
    stack.parent.mkdir(parents=True)
    told = {
        "python": [3, 11, 0],
        "prefix": "/",
        "packages": {"tensorflow": "2.21.0"},
        "horovod_missing": "c++: not found.",
    }
    stack.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    stack.chmod(0o755)
    ended = session(tmp_path, "suites/distributed", "-k", "fp32-2-ranks-mpirun", "--stack", str(stack))
    assert (ended.status, ended.run.records[0].verdict) == (5, "not run"), ended.text
    assert "2 ranks need Horovod, which stack 'bare' has not: c++: not found." in ended.run.records[0].reason


def test_rows_that_do_not_fit_a_machine_are_named_in_a_plan_and_the_others_planned(tmp_path: Path) -> None:
    ended = session(tmp_path, "suites/distributed", "-m", "documented", "--plan", "--hw", "xeon-2s")
    assert ended.status == 0, ended.text
    said = "32 ranks on one machine are more than 4 on each of its 2 sockets; allowed: 1 to 8."
    assert f"# resnet50_v1_5-imagenet-bf16-mlperf-32-ranks-base-0.1 is not run here: {said}" in ended.text
    assert "--map-by ppr:2:socket:pe=14" in ended.text


def test_a_row_that_does_not_fit_this_machine_is_not_run_and_an_option_that_does_not_is_wrong(tmp_path: Path) -> None:
    stack = interpreter(tmp_path, 'exec "$real" "$@"')
    row = (
        "suites/distributed",
        "-k",
        "fp32-mlperf-32-ranks-base-0.1 or fp32-mlperf-32-ranks-base-0.128",
        "--stack",
        stack,
    )
    ended = session(tmp_path, *row)
    assert ended.status == 5 and {record.verdict for record in ended.run.records} == {"not run"}, ended.text
    assert "32 ranks on one machine are more than" in ended.run.records[0].reason
    asked = session(tmp_path, *row, "--mpi-num-processes", "512", "--output-dir", str(tmp_path / "asked"))
    assert asked.status == 4 and "512 ranks on one machine are more than" in asked.text
