"""Several ranks: what their reports come to, their efficiency, and a prediction that is told from a measurement."""

from __future__ import annotations

import doctest
import importlib
import random
from typing import Any

import msgspec
import pytest

from conformance.cases import Band, Case
from conformance.errors import SubjectFailed, UsageError
from conformance.judging.prediction import (
    FUSION_BUFFER_BYTES,
    NEVER_MEASURED,
    Basis,
    Link,
    Links,
    Measured,
    allreduce_s,
    fit,
    predict,
    prediction_lines,
    ring_s,
    slowest_s,
    with_prediction,
)
from conformance.judging.scaling import Block, measured_scaling, rank_metrics
from conformance.judging.verdicts import judge_case
from conformance.records import Scaling

GIB = 1024**3
SIZES = (1_000_000, 16_000_000, 102_000_000)
WITHIN = Link(2e9, 50e-6, (2, 4), 0.0)
BETWEEN = Link(1e9, 100e-6, (2,), 0.0)
BASIS = Basis([0.4] * 50, 32, 102_000_000, 2 * GIB, Links(WITHIN, BETWEEN))


def report(rank: int, step_s: float = 0.4, steps: int = 30, **changes: Any) -> dict[str, Any]:
    """Return what a subject tells of a rank: steps of which the first ten, which compile, are ten times longer."""
    told: dict[str, Any] = {
        "rank": rank,
        "local_rank": rank,
        "host": "here",
        "pid": 4000 + rank,
        "affinity": [rank],
        "examples_per_s": 20.0,
        "resident_bytes": 2 * GIB,
        "step_s": [10 * step_s] * 10 + [step_s] * (steps - 10),
        "wait_s": [0.0] * steps,
    }
    return {**told, **changes}


def in_turns(one: list[float], many: list[float], ranks: int = 2, one_batch: int = 8, batch: int = 16) -> list[Block]:
    """Return blocks as measured A B B A."""
    pairs = zip(one, many, strict=True)
    turns = [(Block(1, one_batch, a), Block(ranks, batch, b)) for a, b in pairs]
    return [block for n, turn in enumerate(turns) for block in (turn if n % 2 == 0 else turn[::-1])]


@pytest.mark.parametrize("module", ["prediction"])
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"conformance.judging.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_all_ranks_are_as_fast_as_the_slowest_lets_them_be() -> None:
    found = rank_metrics([report(0, 0.4), report(1, 0.5)], 2, 8)
    assert found == {"global_images_per_s": pytest.approx(2 * 8 / 0.5)}


def test_waiting_for_images_is_a_part_of_a_step() -> None:
    found = rank_metrics([report(0, 0.4, wait_s=[0.1] * 30)], 1, 8)
    assert found == {"global_images_per_s": pytest.approx(8 / 0.5)}


def test_the_share_of_an_allreduce_is_of_the_slowest_step() -> None:
    assert rank_metrics([report(0), report(1, 0.5)], 2, 8, 0.05)["allreduce_share"] == pytest.approx(0.1)
    assert "allreduce_share" not in rank_metrics([report(0)], 1, 8, 0.05)


def test_skew_is_of_computing_and_a_straggler_of_waiting_as_well() -> None:
    compute_s = [[0.20] * 30, [0.22] * 30, [0.21] * 30]
    late = [0.0, 0.05] * 15
    ranks = [report(n, compute_s=compute_s[n], wait_s=late if n == 0 else [0.0] * 30) for n in range(3)]
    found = rank_metrics(ranks, 3, 8)
    assert found["rank_skew"] == pytest.approx(0.02 / 0.21)
    assert found["straggler_share"] == pytest.approx(0.5)
    assert rank_metrics([{**r, "wait_s": [0.0] * 30} for r in ranks], 3, 8)["straggler_share"] == 1.0


def test_the_skew_is_that_of_computing_and_the_share_that_of_an_idle_reduction() -> None:
    told = [{"rank": 0, "compute_s": [9.0, 1.0, 1.0], "step_s": [9.0, 2.0, 2.0], "wait_s": [0.0] * 3},
            {"rank": 1, "compute_s": [1.5] * 3, "step_s": [2.0] * 3, "wait_s": [0.0] * 3}]  # fmt: skip
    found = rank_metrics(told, 2, 8, 0.5, warmup=0)
    assert (found["rank_skew"], found["allreduce_share"]) == (0.4, 0.25)
    alone = [{"rank": 0, "compute_s": [], "step_s": [1.0], "wait_s": [0.0]}]
    assert "rank_skew" not in rank_metrics(alone, 1, 8, None, warmup=0)


def test_ranks_that_are_equally_slow_have_no_straggler() -> None:
    found = rank_metrics([report(n, compute_s=[0.2] * 30) for n in range(4)], 4, 8)
    assert (found["rank_skew"], found["straggler_share"]) == (0.0, 0.0)


def test_chance_makes_each_rank_a_straggler_about_as_often() -> None:
    draw = random.Random(3)
    ranks = [report(n, steps=2010, compute_s=[draw.gauss(0.2, 0.01) for _ in range(2010)]) for n in range(4)]
    assert rank_metrics(ranks, 4, 8)["straggler_share"] == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("compute_s", [[], None])
def test_what_was_not_timed_is_absent(compute_s: list[float] | None) -> None:
    ranks = [report(0), report(1, **({} if compute_s is None else {"compute_s": compute_s}))]
    assert not {"rank_skew", "straggler_share", "allreduce_share", "weights_differ"} & rank_metrics(ranks, 2, 8).keys()


def test_steps_that_compile_have_no_speed() -> None:
    assert rank_metrics([report(0, steps=10), report(1, steps=10)], 2, 8, 0.1) == {}


def test_ranks_with_other_weights_than_the_first_are_counted() -> None:
    ranks = [report(n, weights_sha256=digest) for n, digest in enumerate("aabc")]
    assert rank_metrics(ranks, 4, 8)["weights_differ"] == 2.0
    assert rank_metrics([{**r, "weights_sha256": "a"} for r in ranks], 4, 8)["weights_differ"] == 0.0
    assert "weights_differ" not in rank_metrics([*ranks[:3], report(3)], 4, 8)


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        ([report(0), report(2)], "Of 3 ranks these reported: 0, 2; needed is each of them once."),
        ([report(0), report(1), report(1)], "Of 3 ranks these reported: 0, 1, 1; needed is each of them once."),
        ([], "Of 3 ranks these reported: none; needed is each of them once."),
        (
            [report(0), report(1), report(2, steps=31)],
            "The ranks report series of 30, 31 steps; all do the same steps.",
        ),
        ([report(0), report(1), {"rank": 2}], "The report of the ranks does not fit: Object missing required field"),
        ([report(0), report(1), report(2, 0.0)], "Rank 2: step 0 is 0.0; only positive numbers are possible."),
        ([report(0), report(1, float("nan")), report(2)], "Rank 1: step 0 is nan; only positive"),
    ],
    ids=["one is missing", "one reports twice", "none", "other steps", "no report", "no time", "no number"],
)
def test_reports_that_cannot_be_are_refused(reports: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(SubjectFailed) as error:
        rank_metrics(reports, 3, 8)
    assert error.value.message.startswith(told)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_an_allreduce_without_a_time_is_refused(seconds: float) -> None:
    with pytest.raises(SubjectFailed, match=r"Allreduce 0 is .*; only positive numbers are possible"):
        rank_metrics([report(0), report(1)], 2, 8, seconds)


def test_efficiency_is_the_median_of_paired_ratios() -> None:
    found = measured_scaling(in_turns([20.0, 40.0, 10.0], [36.0, 64.0, 19.0]))
    one, two = found.measured
    assert found.kind == "weak"
    assert (one.ranks, one.efficiency, one.interval) == (1, 1.0, None)
    assert (two.ranks, two.efficiency, two.images_per_s, two.step_s) == (2, 0.9, 36.0, pytest.approx(16 / 36))
    assert two.interval is not None and two.interval[0] < 0.8 and two.interval[1] > 0.95


def test_a_machine_that_slows_down_does_not_change_an_efficiency_measured_in_turns() -> None:
    speed = [20.0 * 0.9**n for n in range(8)]
    two = measured_scaling(in_turns(speed, [1.8 * images for images in speed])).measured[1]
    assert (two.efficiency, two.interval) == (pytest.approx(0.9), (pytest.approx(0.9), pytest.approx(0.9)))


def test_strong_scaling_keeps_the_batch_of_all() -> None:
    found = measured_scaling(in_turns([20.0], [60.0], ranks=4, batch=8))
    assert (found.kind, found.measured[1].efficiency, found.measured[1].interval) == ("strong", 0.75, None)


def test_ranks_that_tell_one_another_nothing_are_perfectly_efficient_which_only_their_weights_show() -> None:
    speed = [20.0, 20.5, 19.8, 20.1, 20.2, 19.9]
    two = measured_scaling(in_turns(speed, [2 * images for images in speed])).measured[1]
    assert two.efficiency == 1.0
    ranks = [report(n, weights_sha256=digest) for n, digest in enumerate("ab")]
    assert rank_metrics(ranks, 2, 8)["weights_differ"] == 1.0


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        ([Block(1, 8, 20.0)], "Blocks were measured of ranks: 1 with batch 8; needed are 1 and one other number"),
        ([Block(2, 16, 20.0), Block(4, 32, 20.0)], "Blocks were measured of ranks: 2 with batch 16, 4 with batch 32;"),
        (in_turns([20.0], [36.0]) + [Block(4, 32, 70.0)], "Blocks were measured of ranks: 1 with batch 8, 2 with"),
        ([Block(1, 8, 20.0), Block(1, 16, 20.0)], "Blocks were measured of ranks: 1 with batch 8, 1 with batch 16;"),
        ([], "Blocks were measured of ranks: none; needed are 1 and one other number, each with one batch."),
        (in_turns([20.0], [36.0], batch=12), "2 ranks have a batch of 12; 16 is weak scaling, 8 is strong."),
        (in_turns([20.0], [36.0]) + [Block(2, 16, 36.0)], "Two subjects report 2 and 1 measurements;"),
        (in_turns([20.0, 0.0], [36.0, 36.0]), "Measurement 3 is 0.0; only positive numbers are possible."),
        (in_turns([20.0, 20.0], [float("nan"), 36.0]), "Measurement 0 is nan; only positive numbers are possible."),
    ],
    ids=["one", "no single", "three", "two singles", "none", "odd batch", "unpaired", "zero", "no number"],
)
def test_blocks_that_are_no_pairs_are_refused(blocks: list[Block], told: str) -> None:
    with pytest.raises(SubjectFailed) as error:
        measured_scaling(blocks)
    assert error.value.message.startswith(told)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.91, 0.95), "inside"), ((0.80, 0.85), "outside"), ((0.85, 0.95), "unstable"), (None, "unstable")],
)
def test_an_efficiency_is_judged_by_its_whole_interval(interval: tuple[float, float] | None, verdict: str) -> None:
    band = Band(metric="scaling_efficiency", at_least=0.9, source="here")
    case = Case(
        id="x", model="resnet50_v1_5", mode="throughput", precision="fp32", dataset="dummy", batch_size=8,
        source="here", band=(band,),
    )  # fmt: skip
    middle = sum(interval) / 2 if interval else 0.93
    intervals = {"scaling_efficiency": interval} if interval else {}
    judgements, _, _ = judge_case(case, {"scaling_efficiency": middle}, None, (), "generic-cpu", intervals)
    assert {j.metric: j.verdict for j in judgements}["scaling_efficiency"] == verdict


@pytest.mark.parametrize("ranks", [1, 2, 5, 64])
def test_a_ring_takes_the_rounds_that_its_algorithm_has(ranks: int) -> None:
    size, seconds = 100e6, 0.0
    for _ in ("reduce-scatter", "allgather"):
        for _ in range(ranks - 1):
            seconds += WITHIN.latency_s + size / ranks / WITHIN.bandwidth_bytes_per_s
    assert ring_s(size, ranks, WITHIN) == pytest.approx(seconds)


def test_several_hosts_add_the_ring_between_them() -> None:
    links = Links(WITHIN, BETWEEN)
    assert allreduce_s(1e8, 8, 8, links) == ring_s(1e8, 8, WITHIN)
    assert allreduce_s(1e8, 32, 8, links) == ring_s(1e8, 8, WITHIN) + ring_s(1e8, 4, BETWEEN)
    assert allreduce_s(1e8, 9, 8, links) == ring_s(1e8, 8, WITHIN) + ring_s(1e8, 2, BETWEEN)
    assert allreduce_s(1e8, 4, 1, links) == ring_s(1e8, 4, BETWEEN)


def test_a_link_between_hosts_that_nobody_knows_is_not_invented() -> None:
    with pytest.raises(UsageError) as error:
        allreduce_s(1e8, 64, 8, Links(WITHIN))
    assert error.value.message == "64 ranks, 8 a host, need 8 hosts, and the link between hosts is not known."


def times(link: Link, noise: float = 0.0) -> list[Measured]:
    draw = random.Random(5)
    return [Measured(n, s, ring_s(s, n, link) * (1 + draw.uniform(-noise, noise))) for n in (2, 4) for s in SIZES]


def test_the_fit_finds_the_link_that_made_the_times() -> None:
    found = fit(times(WITHIN))
    assert found.bandwidth_bytes_per_s == pytest.approx(2e9)
    assert found.latency_s == pytest.approx(50e-6)
    assert found.misfit < 1e-6 and found.ranks == (2, 4)


def test_the_fit_bears_noise_and_tells_how_far_off_it_is() -> None:
    found = fit(times(Link(2e9, 5e-4, (), 0.0), 0.1))
    assert found.bandwidth_bytes_per_s == pytest.approx(2e9, rel=0.15)
    assert found.latency_s == pytest.approx(5e-4, rel=0.3)
    assert 0.02 < found.misfit < 0.15


def test_a_time_that_is_too_long_counts_as_much_as_one_that_is_too_short() -> None:
    slow, fast = (
        [one._replace(seconds=one.seconds * (1 + way * 0.5 * (-1) ** n)) for n, one in enumerate(times(WITHIN))]
        for way in (1, -1)
    )
    assert fit(slow * 2 + fast * 2).bandwidth_bytes_per_s == pytest.approx(2e9)


def test_times_that_no_ring_takes_show_in_the_misfit() -> None:
    crowded = [one._replace(seconds=one.seconds * (4 if one.ranks == 4 else 1)) for one in times(WITHIN)]
    assert fit(crowded).misfit > 0.5


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ([], "A link cannot be told from an allreduce of nothing: two sizes are needed."),
        ([Measured(2, 10**6, 0.1)] * 3, "A link cannot be told from an allreduce of 1,000,000 bytes over 2 ranks, "),
        ([Measured(1, 10**6, 0.1), Measured(2, 10**6, 0.1)], "A link cannot be told from an allreduce of 1,000,000 "),
        ([Measured(2, 10**6, 0.2), Measured(2, 10**8, 0.1)], "The measured allreduces take no more time for more"),
        ([Measured(2, 10**6, 0.0), Measured(2, 10**8, 0.1)], "Allreduce 0 is 0.0; only positive numbers are possible."),
        ([Measured(2, 10**6, 0.1), Measured(2, 10**8, float("nan"))], "Allreduce 1 is nan; only positive"),
    ],
    ids=["none", "one size", "one rank", "faster for more", "zero", "no number"],
)
def test_allreduces_that_tell_no_link_are_refused(measured: list[Measured], told: str) -> None:
    with pytest.raises(SubjectFailed) as error:
        fit(measured)
    assert error.value.message.startswith(told)


def test_the_slowest_of_many_is_what_drawing_them_gives() -> None:
    draw = random.Random(1)
    steps = [draw.lognormvariate(0, 0.3) for _ in range(40)]
    drawn = sum(max(draw.choices(steps, k=8)) for _ in range(20_000)) / 20_000
    assert slowest_s(steps, 8) == pytest.approx(drawn, rel=0.01)
    assert slowest_s(steps, 1) == pytest.approx(sum(steps) / 40)
    assert slowest_s(steps, 10**6) == pytest.approx(max(steps))


def test_a_prediction_is_the_slowest_rank_and_then_an_allreduce() -> None:
    found = predict(BASIS, 32, 8, 32 * GIB)
    step_s = 0.4 + ring_s(102e6, 8, WITHIN) + ring_s(102e6, 4, BETWEEN)
    assert (found.step_s, found.efficiency) == (pytest.approx(step_s), pytest.approx(0.4 / step_s))
    assert found.images_per_s == pytest.approx(32 * 32 / step_s)
    assert found.interval is None
    assert predict(BASIS, 1, 8).efficiency == pytest.approx(1.0)


def test_more_ranks_and_uneven_steps_make_a_prediction_worse() -> None:
    uneven = BASIS._replace(step_s=[0.3, 0.5] * 25)
    even = [predict(BASIS, ranks, 8).efficiency for ranks in (1, 2, 8, 32, 64)]
    assert even == sorted(even, reverse=True)
    assert predict(uneven, 8, 8).efficiency < even[2]


@pytest.mark.parametrize(("memory", "fits"), [(17 * GIB, True), (17 * GIB - 1, False), (None, None), (0, None)])
def test_memory_is_that_of_all_ranks_of_a_host(memory: int | None, fits: bool | None) -> None:
    assert FUSION_BUFFER_BYTES * 8 == GIB
    found = [predict(BASIS, ranks, 8, memory) for ranks in (8, 64)]
    assert {(point.bytes_per_host, point.fits) for point in found} == {(17 * GIB, fits)}
    assert predict(BASIS, 2, 8).bytes_per_host == 2 * (2 * GIB + FUSION_BUFFER_BYTES)


@pytest.mark.parametrize("step_s", [[], [0.4, 0.0], [0.4, float("nan")]])
def test_nothing_is_predicted_from_steps_that_cannot_be(step_s: list[float]) -> None:
    with pytest.raises(SubjectFailed, match=r"One rank alone timed 0 steps|Step 1 is (0.0|nan); only positive"):
        predict(BASIS._replace(step_s=step_s), 8, 8)


def test_the_model_is_held_against_what_was_measured() -> None:
    found = with_prediction(measured_scaling(in_turns([80.0], [152.0], batch=16)), BASIS, 8)
    assert [point.ranks for point in found.measured] == [1, 2]
    assert [point.ranks for point in found.predicted] == [2, 8, 32, 64]
    assert "Patarasuk and Yuan 2009" in found.model


def test_strong_scaling_is_not_predicted() -> None:
    strong = measured_scaling(in_turns([80.0], [152.0], batch=8))
    assert with_prediction(strong, BASIS, 8) is strong


def test_links_that_do_not_fit_what_was_measured_predict_nothing_and_that_is_said() -> None:
    doubtful = with_prediction(
        Scaling(kind="weak"), BASIS._replace(links=Links(WITHIN, BETWEEN._replace(misfit=0.51))), 8
    )
    assert doubtful.predicted == ()
    assert doubtful.assumptions[-1] == (
        "Nothing is predicted for 8, 32 and 64 ranks: the model is up to 51 % off what was measured."
    )
    close = BASIS._replace(links=Links(WITHIN._replace(misfit=0.5), BETWEEN))
    assert len(with_prediction(Scaling(kind="weak"), close, 8).predicted) == 3


def test_ranks_beyond_a_host_are_left_out_where_the_link_is_not_known_and_that_is_said() -> None:
    found = with_prediction(Scaling(kind="weak"), BASIS._replace(links=Links(WITHIN)), 8)
    assert [point.ranks for point in found.predicted] == [8]
    assert found.assumptions[-1] == "Nothing is predicted for 32 and 64 ranks: the link between hosts is not known."


def test_a_plan_says_what_is_predicted_by_which_model_and_that_nobody_measured_it() -> None:
    measured = measured_scaling(in_turns([80.0], [152.0]))
    lines = prediction_lines(with_prediction(measured, BASIS, 8, 17 * GIB))
    shown = [f"{100 * predict(BASIS, ranks, 8).efficiency:.1f} % at {ranks}" for ranks in (8, 32, 64)]
    assert 3 <= len(lines) <= 5
    assert lines[0] == f"{NEVER_MEASURED}: scaling efficiency {shown[0]}, {shown[1]} and {shown[2]} ranks"
    assert lines[1] == (
        f"{NEVER_MEASURED}: memory a host 17.0 GiB at 8 (fits), 17.0 GiB at 32 (fits) and 17.0 GiB at 64 (fits) ranks"
    )
    assert lines[2] == "model: ring allreduce after the slowest rank (Patarasuk and Yuan 2009; Thakur et al. 2005)"
    assert "like the 50 measured of one alone" in lines[3]
    assert "102.0 MB are reduced after computing and not meanwhile (pessimistic)" in lines[3]
    assert "2.00 GB/s and 50 µs a message, at most 0 % off what was measured at 2 and 4 ranks" in lines[3]
    assert "2.0 GiB of memory, measured alone, and 0.1 GiB for Horovod to fuse tensors in: 17.0 GiB for 8" in lines[3]


@pytest.mark.parametrize(("memory", "said"), [(GIB, "(more than the host has)"), (None, "(the host's own is unknown)")])
def test_a_plan_says_whether_a_host_has_the_memory(memory: int | None, said: str) -> None:
    lines = prediction_lines(with_prediction(Scaling(kind="weak"), BASIS, 8, memory))
    assert lines[1].count(said) == 3


def test_a_plan_without_a_prediction_says_so() -> None:
    assert prediction_lines(Scaling(kind="weak")) == ["no scaling efficiency is predicted"]
    unknown = with_prediction(Scaling(kind="weak"), BASIS._replace(links=Links(WITHIN)), 4)
    lines = prediction_lines(unknown)
    assert lines[0] == "no scaling efficiency is predicted"
    assert len(lines) == 2 and "8.5 GiB for 4 ranks" in lines[1]
    assert lines[1].endswith("Nothing is predicted for 8, 32 and 64 ranks: the link between hosts is not known.")
    assert not any(NEVER_MEASURED in line for line in lines)


def test_a_number_that_was_measured_is_not_told_as_predicted() -> None:
    found = with_prediction(measured_scaling(in_turns([80.0], [600.0], ranks=8, batch=64)), BASIS, 8)
    assert [point.ranks for point in found.predicted] == [8, 32, 64]
    assert " at 8" not in prediction_lines(found)[0]


def test_scaling_survives_the_run_file() -> None:
    found = with_prediction(measured_scaling(in_turns([80.0, 81.0], [152.0, 150.0])), BASIS, 8, 17 * GIB)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Scaling) == found
