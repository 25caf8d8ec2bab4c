"""What the kernel tells of the CPUs while steps are timed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from conformance.subject import machine
from conformance.subject.machine import Reading

TICKS = os.sysconf("SC_CLK_TCK")

# A virtual machine of two cores, Linux 6.1: user nice system idle iowait irq softirq steal guest guest_nice.
STAT = """\
cpu  254711 13 38295 1024873 4127 0 1021 5213 0 0
cpu0 127044 6 19327 512215 2091 0 588 2607 0 0
cpu1 127667 7 18968 512658 2036 0 433 2606 0 0
intr 21340711 0 9 0 0 0 0 0 0
ctxt 38411027
btime 1763720000
"""


@pytest.mark.parametrize(
    ("cpus", "steal", "busy"),
    [
        ([0], 2607, 127044 + 6 + 19327 + 588),
        ([1], 2606, 127667 + 7 + 18968 + 433),
        ([0, 1], 5213, 254711 + 13 + 38295 + 1021),
    ],
)
def test_steal_and_work_are_those_of_the_bound_cpus(cpus: list[int], steal: int, busy: int) -> None:
    assert machine.cpu_seconds(STAT, cpus) == (steal / TICKS, busy / TICKS)


@pytest.mark.parametrize("cpus", [[2], [0, 2], [10]])
def test_a_cpu_that_the_kernel_does_not_list_makes_the_sum_unknown(cpus: list[int]) -> None:
    assert machine.cpu_seconds(STAT, cpus) is None


def test_cpu_1_is_not_cpu_10() -> None:
    text = STAT.replace("cpu0", "cpu10")
    assert machine.cpu_seconds(text, [1]) == machine.cpu_seconds(STAT, [1])
    assert machine.cpu_seconds(text, [10]) == machine.cpu_seconds(STAT, [0])


def test_waiting_and_idling_are_no_work() -> None:
    idle = STAT.replace("512215 2091", "912215 9091")
    assert machine.cpu_seconds(idle, [0]) == machine.cpu_seconds(STAT, [0])


def throttled(root: Path, counts: dict[int, str]) -> str:
    for cpu, count in counts.items():
        folder = root / f"cpu{cpu}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(count)
    return str(root)


def test_throttle_events_are_summed_over_the_bound_cpus(tmp_path: Path) -> None:
    root = throttled(tmp_path, {0: "3\n", 1: "4\n", 2: "100\n"})
    assert machine.throttle_events(root, [0, 1]) == 7
    assert machine.throttle_events(root, [1]) == 4


def test_a_kernel_that_counts_no_throttling_is_not_a_kernel_that_counts_none(tmp_path: Path) -> None:
    assert machine.throttle_events(throttled(tmp_path, {0: "0\n"}), [0]) == 0
    assert machine.throttle_events(str(tmp_path), [1]) is None


def test_between_two_readings_are_their_differences() -> None:
    before = Reading(steal_s=1.0, busy_s=10.0, own_s=5.0, clock_s=100.0, throttle_events=2)
    after = Reading(steal_s=1.5, busy_s=18.0, own_s=12.0, clock_s=104.0, throttle_events=2)
    assert machine.between(before, after, [4, 5]) == {
        "steal_s": 0.5,
        "busy_s": 8.0,
        "own_s": 7.0,
        "elapsed_s": 4.0,
        "throttle_events": 0,
        "cpus": 2,
    }


@pytest.mark.parametrize("missing", ["before", "after"])
def test_what_one_reading_lacks_is_unknown_and_not_zero(missing: str) -> None:
    whole = Reading(1.0, 10.0, 5.0, 100.0, 0)
    partial = Reading(None, None, 5.0, 100.0, None)
    pair = (partial, whole) if missing == "before" else (whole, partial)
    found = machine.between(*pair, [0])
    assert (found["steal_s"], found["busy_s"], found["throttle_events"]) == (None, None, None)
    assert (found["own_s"], found["elapsed_s"]) == (0.0, 0.0)


def test_this_machine_sees_the_work_of_this_process() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    before = machine.read(cpus)
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    found = machine.between(before, machine.read(cpus), cpus)
    assert found["own_s"] == pytest.approx(0.2, abs=0.1) and found["elapsed_s"] >= 0.19
    assert found["busy_s"] is None or found["busy_s"] >= 0.15
