"""Which cores a case gets on machines of several shapes."""

from __future__ import annotations

from typing import Any

import pytest
from launch_examples import MACHINE, SOCKET, xeon

from conformance.errors import UsageError
from conformance.hardware.host import Cpu, Host, cpu_list
from conformance.hardware.profile import Drive
from conformance.launch.placement import Request, candidates


def shape(host: Host, drive: Drive, **options: Any) -> list[list[tuple[str, tuple[int, ...], bool]]]:
    found = candidates(host, drive, Request(**options))
    return [[(cpu_list(p.cpus), p.memory_nodes, p.whole_nodes) for p in alternative] for alternative in found]


def test_a_case_that_is_driven_by_socket_may_get_any_socket() -> None:
    found = shape(xeon(8, 28), SOCKET)
    assert found == [[(f"{28 * s}-{28 * s + 27}", (s,), True)] for s in range(8)]


@pytest.mark.parametrize("drive", [SOCKET, MACHINE])
def test_a_socket_that_was_asked_for_is_the_only_alternative(drive: Drive) -> None:
    assert shape(xeon(2, 28), drive, socket_id=1) == [[("28-55", (1,), True)]]


def test_a_case_that_is_driven_by_machine_gets_all_cores() -> None:
    assert shape(xeon(2, 28), MACHINE) == [[("0-55", (0, 1), True)]]


def test_a_socket_with_two_numa_nodes_gets_the_memory_of_both() -> None:
    host = xeon(2, 8, nodes_per_socket=2)
    assert shape(host, SOCKET) == [[("0-7", (0, 1), True)], [("8-15", (2, 3), True)]]


def test_instances_share_no_core_and_use_the_memory_of_their_own_node() -> None:
    host = xeon(2, 8, nodes_per_socket=2)
    assert shape(host, SOCKET, socket_id=1, num_instances=2) == [[("8-11", (2,), True), ("12-15", (3,), True)]]


def test_cores_that_do_not_divide_evenly_stay_unused_and_are_noted() -> None:
    (instances,) = candidates(xeon(1, 8), MACHINE, Request(num_instances=3))
    assert [p.cpus for p in instances] == [(0, 1), (2, 3), (4, 5)]
    assert instances[0].notes == ("3 instances of 2 cores leave 2 of 8 unused.",)


def test_fewer_cores_are_the_first_of_each_socket_and_no_whole_node() -> None:
    assert shape(xeon(2, 28), SOCKET, num_cores=4) == [[("0-3", (0,), False)], [("28-31", (1,), False)]]


def test_cores_of_a_machine_with_interleaved_numbers_are_taken_socket_by_socket() -> None:
    plain = xeon(2, 4, threads=1)
    cpus = tuple(Cpu(id=i, core=i, socket=i % 2, node=i % 2) for i in range(8))
    host = Host(**{**{f: getattr(plain, f) for f in plain.__struct_fields__}, "cpus": cpus})
    assert shape(host, MACHINE, num_cores=4) == [[("0,2,4,6", (0,), True)]]


def test_affinity_leaves_only_the_cores_that_it_allows() -> None:
    assert shape(xeon(2, 28, allowed=range(4, 12)), MACHINE) == [[("4-11", (0,), False)]]


def test_a_socket_that_leaves_fewer_cores_is_no_alternative() -> None:
    assert shape(xeon(2, 28, allowed=range(0, 40)), SOCKET) == [[("0-27", (0,), False)]]


def test_a_node_whose_siblings_are_forbidden_is_not_whole() -> None:
    assert shape(xeon(2, 4, allowed=range(0, 8)), SOCKET, socket_id=0) == [[("0-3", (0,), False)]]


def test_a_core_whose_first_cpu_is_forbidden_is_used_by_its_sibling() -> None:
    assert shape(xeon(1, 4, allowed=range(3, 6)), MACHINE) == [[("3-5", (0,), False)]]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            {"socket_id": 2},
            "--socket-id is 2, which is no socket of this machine; allowed: 0, 1.",
            "A socket is no NUMA node; sockets here: 2, NUMA nodes: 4.",
        ),
        (
            {"socket_id": -1},
            "--socket-id is -1, which is no socket of this machine; allowed: 0, 1.",
            "sockets",
        ),
        (
            {"num_cores": 9},
            "--num-cores is 9; allowed: 1 to 8, the cores of socket 0 that this process may use.",
            "Ask for fewer cores",
        ),
        (
            {"num_cores": 9, "socket_id": 1},
            "--num-cores is 9; allowed: 1 to 8, the cores of socket 1 that this process may use.",
            "widen the affinity",
        ),
        (
            {"num_instances": 9},
            "--num-instances is 9; allowed: 1 to 8, one core each on socket 0.",
            "--num-cores",
        ),
        (
            {"num_instances": 3, "num_cores": 2},
            "--num-instances is 3; allowed: 1 to 2, one core each on socket 0.",
            "fewer instances",
        ),
        ({"num_cores": 0}, "--num-cores is 0; allowed: 1 or more.", "Give a positive --num-cores"),
        ({"num_instances": -1}, "--num-instances is -1; allowed: 1 or more.", "--num-instances"),
        ({"num_inter_threads": 0}, "--num-inter-threads is 0; allowed: 1 or more.", "--num-inter-threads"),
        ({"num_intra_threads": -4}, "--num-intra-threads is -4; allowed: 1 or more.", "--num-intra-threads"),
    ],
)
def test_an_option_that_does_not_fit_the_machine_is_told(options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        candidates(xeon(2, 8, nodes_per_socket=2), SOCKET, Request(**options))
    assert raised.value.message == message
    assert hint in raised.value.hint


def test_more_cores_than_affinity_leaves_are_refused() -> None:
    with pytest.raises(UsageError, match="--num-cores is 9; allowed: 1 to 8, the cores of this machine"):
        candidates(xeon(2, 28, allowed=range(8)), MACHINE, Request(num_cores=9))


def test_a_socket_of_which_nothing_is_left_is_told() -> None:
    with pytest.raises(UsageError, match="No core of socket 1 is left to this process by its affinity"):
        candidates(xeon(2, 28, allowed=range(8)), MACHINE, Request(socket_id=1))


@pytest.mark.parametrize("boundary", [{"num_cores": 8}, {"num_instances": 8}, {"num_cores": 1}])
def test_the_most_and_the_least_that_is_allowed_are_granted(boundary: dict[str, Any]) -> None:
    assert len(candidates(xeon(2, 8), SOCKET, Request(**boundary))) == 2


@pytest.mark.parametrize(("cpus", "text"), [([], ""), ([3], "3"), ([2, 1, 0], "0-2"), ([0, 2, 3, 7], "0,2-3,7")])
def test_cpu_lists_are_written_with_ranges(cpus: list[int], text: str) -> None:
    assert cpu_list(cpus) == text
