"""What is started for a placement: whole command lines and environments."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from launch_examples import MACHINE, SOCKET, xeon

import conformance
from conformance.cases import Precision
from conformance.errors import HarnessFault
from conformance.hardware.host import Host
from conformance.hardware.profile import Drive
from conformance.launch.placement import Request, candidates
from conformance.launch.plan import plan_line
from conformance.launch.rules import Composed, compose, subject_path

PYTHON = "/opt/tf/bin/python"
RULES = {
    "PYTHONPATH": "/run/subject-path",
    "PYTHONUNBUFFERED": "1",
    "PYTHONNOUSERSITE": "1",
    "OMP_NUM_THREADS": "28",
    "KMP_AFFINITY": "granularity=fine,verbose,compact,1,0",
    "KMP_BLOCKTIME": "1",
    "KMP_SETTINGS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "1",
}


def composed(
    host: Host,
    drive: Drive,
    request: Request,
    *,
    alternative: int = 0,
    instance: int = 0,
    precision: Precision = "fp32",
    environ: dict[str, str] | None = None,
    libraries: Path = Path("/nowhere"),
) -> Composed:
    placement = candidates(host, drive, request)[alternative][instance]
    return compose(
        PYTHON,
        Path("/run/job.json"),
        Path("/run/subject-path"),
        placement,
        host,
        drive,
        request,
        precision,
        environ or {},
        (libraries,),
    )


def command(*binding: str) -> tuple[str, ...]:
    return (*binding, PYTHON, "-m", "conformance.subject", "/run/job.json")


@pytest.mark.parametrize("sockets", [2, 8])
@pytest.mark.parametrize("socket", [0, 1])
def test_a_xeon_is_driven_one_socket_at_a_time(sockets: int, socket: int) -> None:
    launched = composed(xeon(sockets, 28), SOCKET, Request(), alternative=socket).launched
    assert launched.argv == command("numactl", f"--cpunodebind={socket}", f"--membind={socket}")
    assert list(launched.env.items()) == list(RULES.items())
    assert launched.cpus == tuple(range(28 * socket, 28 * socket + 28))
    assert launched.memory_nodes == (socket,)
    assert (launched.inter_op_threads, launched.intra_op_threads) == (1, 28)


@pytest.mark.parametrize("sockets", [2, 8])
@pytest.mark.parametrize(
    ("socket", "instance", "cpus"), [(0, 0, "0-13"), (0, 1, "14-27"), (1, 0, "28-41"), (1, 1, "42-55")]
)
def test_two_instances_get_half_a_socket_each(sockets: int, socket: int, instance: int, cpus: str) -> None:
    request = Request(num_instances=2)
    launched = composed(xeon(sockets, 28), SOCKET, request, alternative=socket, instance=instance).launched
    assert launched.argv == command("numactl", f"--physcpubind={cpus}", f"--membind={socket}")
    assert list(launched.env.items()) == list({**RULES, "OMP_NUM_THREADS": "14"}.items())
    assert (launched.inter_op_threads, launched.intra_op_threads) == (1, 14)


@pytest.mark.parametrize("sockets", [2, 8])
def test_int8_preloads_tcmalloc_last_in_its_environment(sockets: int, tmp_path: Path) -> None:
    (tmp_path / "libtcmalloc_minimal.so.4").touch()
    library = tmp_path / "libtcmalloc.so.4.2.6"
    library.touch()
    made = composed(xeon(sockets, 28), SOCKET, Request(), precision="int8", libraries=tmp_path)
    assert made.launched.argv == command("numactl", "--cpunodebind=0", "--membind=0")
    assert list(made.launched.env.items()) == [*RULES.items(), ("LD_PRELOAD", str(library))]
    assert made.notes == ()


def test_the_whole_machine_needs_no_binding_and_gets_an_inter_thread_each_socket() -> None:
    launched = composed(xeon(2, 28), MACHINE, Request()).launched
    assert launched.argv == command()
    assert (launched.inter_op_threads, launched.intra_op_threads) == (2, 56)
    assert launched.env["OMP_NUM_THREADS"] == "56"


def test_a_socket_with_two_numa_nodes_is_bound_to_both() -> None:
    launched = composed(xeon(2, 28, nodes_per_socket=2), SOCKET, Request(socket_id=1)).launched
    assert launched.argv == command("numactl", "--cpunodebind=2,3", "--membind=2,3")
    assert launched.inter_op_threads == 1


def test_an_instance_on_a_whole_socket_of_several_has_one_inter_thread() -> None:
    launched = composed(xeon(2, 28), MACHINE, Request(num_instances=2), instance=1).launched
    assert launched.argv == command("numactl", "--cpunodebind=1", "--membind=1")
    assert (launched.inter_op_threads, launched.intra_op_threads) == (1, 28)


def test_instances_that_span_sockets_have_one_inter_thread() -> None:
    launched = composed(xeon(4, 6), MACHINE, Request(num_instances=2)).launched
    assert launched.argv == command("numactl", "--cpunodebind=0,1", "--membind=0,1")
    assert (launched.inter_op_threads, launched.intra_op_threads) == (1, 12)


@pytest.mark.parametrize(
    ("host", "request_", "binding"),
    [
        (xeon(1, 2, threads=1), Request(), ()),
        (xeon(1, 8, allowed=range(4)), Request(), ()),
        (xeon(1, 8), Request(num_cores=4), ("taskset", "--cpu-list", "0-3")),
        (xeon(2, 8), Request(num_cores=12), ("numactl", "--physcpubind=0-11", "--membind=0,1")),
        (xeon(2, 8, allowed=range(4)), Request(), ("numactl", "--physcpubind=0-3", "--membind=0")),
    ],
)
def test_binding_is_by_node_by_core_or_none(host: Host, request_: Request, binding: tuple[str, ...]) -> None:
    assert composed(host, MACHINE, request_).launched.argv == command(*binding)


def test_without_smt_threads_are_compact() -> None:
    env = composed(xeon(2, 28, threads=1), SOCKET, Request()).launched.env
    assert env["KMP_AFFINITY"] == "granularity=fine,verbose,compact"


@pytest.mark.parametrize(
    ("drive", "request_", "threads"),
    [
        (Drive(unit="socket", inter_op_threads=3, intra_op_threads=20), Request(), (3, 20)),
        (
            Drive(unit="socket", inter_op_threads=3, intra_op_threads=20),
            Request(num_inter_threads=2, num_intra_threads=10),
            (2, 10),
        ),
        (SOCKET, Request(num_cores=14), (1, 14)),
        (MACHINE, Request(num_cores=56), (2, 56)),
    ],
)
def test_options_win_over_the_profile_and_the_profile_over_the_rules(
    drive: Drive, request_: Request, threads: tuple[int, int]
) -> None:
    launched = composed(xeon(2, 28), drive, request_).launched
    assert (launched.inter_op_threads, launched.intra_op_threads) == threads
    assert launched.env["OMP_NUM_THREADS"] == str(threads[1])


@pytest.mark.parametrize(
    ("quota", "drive", "request_", "intra", "notes"),
    [
        (28.0, SOCKET, Request(), 28, ()),
        (
            5.5,
            SOCKET,
            Request(),
            5,
            ("28 intra-op threads are limited to 5 by the cgroup's quota of 5.5 CPUs.",),
        ),
        (
            0.5,
            SOCKET,
            Request(),
            1,
            ("28 intra-op threads are limited to 1 by the cgroup's quota of 0.5 CPUs.",),
        ),
        (
            8.0,
            SOCKET,
            Request(num_instances=2),
            4,
            ("14 intra-op threads are limited to 4 by the cgroup's quota of 8 CPUs.",),
        ),
        (
            None,
            Drive(unit="socket", intra_op_threads=28),
            Request(num_cores=14),
            14,
            ("28 intra-op threads are limited to the 14 cores of the placement.",),
        ),
        (
            None,
            SOCKET,
            Request(num_intra_threads=29),
            29,
            ("--num-intra-threads 29 is more than the 28 cores of the placement.",),
        ),
        (
            4.0,
            SOCKET,
            Request(num_intra_threads=8),
            8,
            ("--num-intra-threads 8 is more than 4 by the cgroup's quota of 4 CPUs.",),
        ),
    ],
)
def test_threads_exceed_cores_and_quota_only_when_asked_for(
    quota: float | None, drive: Drive, request_: Request, intra: int, notes: tuple[str, ...]
) -> None:
    made = composed(xeon(2, 28, quota_cpus=quota), drive, request_)
    assert made.launched.intra_op_threads == intra
    assert made.notes == notes


def test_unused_cores_are_among_the_notes_of_a_launch() -> None:
    made = composed(xeon(2, 28), SOCKET, Request(num_instances=3))
    assert made.notes == ("3 instances of 9 cores leave 1 of 28 unused.",)


@pytest.mark.parametrize(
    "name", ["OMP_NUM_THREADS", "KMP_AFFINITY", "KMP_BLOCKTIME", "KMP_SETTINGS", "TF_ENABLE_ONEDNN_OPTS"]
)
def test_what_the_user_set_is_kept_and_told_and_what_is_empty_is_set(name: str) -> None:
    kept = composed(xeon(2, 28), SOCKET, Request(), environ={name: "7"})
    assert name not in kept.launched.env
    assert kept.notes == (f"{name}=7 of your environment is kept; the rule is {RULES[name]}.",)
    empty = composed(xeon(2, 28), SOCKET, Request(), environ={name: ""})
    assert empty.launched.env == RULES and empty.notes == ()


def test_a_python_path_and_home_of_the_user_are_not_passed_on() -> None:
    made = composed(xeon(2, 28), SOCKET, Request(), environ={"PYTHONPATH": "/mine", "PYTHONHOME": "/usr"})
    assert made.launched.env == {**RULES, "PYTHONHOME": None}
    assert made.notes == ("PYTHONPATH=/mine of your environment is not passed to the subject.",)


@pytest.mark.parametrize(
    ("precision", "tcmalloc", "preloaded"),
    [
        ("int8", None, True),
        ("int8", False, False),
        ("fp32", None, False),
        ("fp32", True, True),
        ("bf16", None, False),
    ],
)
def test_tcmalloc_is_for_int8_or_when_asked_for(
    precision: Precision, tcmalloc: bool | None, preloaded: bool, tmp_path: Path
) -> None:
    (tmp_path / "libtcmalloc_minimal.so.4").touch()
    request = Request(tcmalloc=tcmalloc)
    made = composed(xeon(2, 28), SOCKET, request, precision=precision, libraries=tmp_path)
    expected = str(tmp_path / "libtcmalloc_minimal.so.4") if preloaded else None
    assert made.launched.env.get("LD_PRELOAD") == expected


def test_tcmalloc_comes_before_what_the_user_preloads(tmp_path: Path) -> None:
    (tmp_path / "libtcmalloc.so.4").touch()
    environ = {"LD_PRELOAD": "/mine.so"}
    made = composed(xeon(2, 28), SOCKET, Request(), precision="int8", environ=environ, libraries=tmp_path)
    assert made.launched.env["LD_PRELOAD"] == f"{tmp_path}/libtcmalloc.so.4:/mine.so"


def test_a_missing_tcmalloc_is_noted() -> None:
    made = composed(xeon(2, 28), SOCKET, Request(), precision="int8")
    assert "LD_PRELOAD" not in made.launched.env
    assert made.notes == ("No tcmalloc in /nowhere: the system's malloc is used (apt install google-perftools).",)


def test_a_plan_is_one_line_that_a_shell_reads_back() -> None:
    environ = {"PYTHONHOME": "/usr", "KMP_SETTINGS": "0", "KMP_BLOCKTIME": "1", "TF_ENABLE_ONEDNN_OPTS": "1"}
    launched = composed(xeon(2, 28), SOCKET, Request(socket_id=1), environ=environ).launched
    line = plan_line(launched)
    assert line == (
        "env -u PYTHONHOME PYTHONPATH=/run/subject-path PYTHONUNBUFFERED=1 PYTHONNOUSERSITE=1"
        " OMP_NUM_THREADS=28 KMP_AFFINITY=granularity=fine,verbose,compact,1,0"
        " numactl --cpunodebind=1 --membind=1 /opt/tf/bin/python -m conformance.subject /run/job.json"
    )


def test_a_plan_quotes_what_a_shell_would_split(tmp_path: Path) -> None:
    host = xeon(1, 2)
    (placement,) = candidates(host, MACHINE, Request())[0]
    made = compose(PYTHON, Path("/my run/j.json"), Path("/a b"), placement, host, MACHINE, Request(), "fp32", {}, ())
    words = shlex.split(plan_line(made.launched))
    assert words[1] == "PYTHONPATH=/a b" and words[-1] == "/my run/j.json"


def test_the_subject_path_exposes_this_package_and_nothing_else(tmp_path: Path) -> None:
    path = subject_path(tmp_path)
    assert subject_path(tmp_path) == path == tmp_path / "subject-path"
    assert [entry.name for entry in path.iterdir()] == ["conformance"]
    found = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            f"import sys; sys.path.insert(0, {str(path)!r})\nimport conformance.wire",
        ],
        check=False,
    )
    assert found.returncode == 0


def test_a_link_to_another_copy_of_the_package_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "subject-path").mkdir()
    (tmp_path / "subject-path/conformance").symlink_to(tmp_path)
    link = subject_path(tmp_path) / "conformance"
    assert link.resolve() == Path(conformance.__file__).resolve().parent


def test_a_directory_in_place_of_the_link_is_told(tmp_path: Path) -> None:
    (tmp_path / "subject-path/conformance").mkdir(parents=True)
    with pytest.raises(HarnessFault, match=r"conformance' is no link to '.*conformance'\. Hint: Remove"):
        subject_path(tmp_path)


def test_a_subject_path_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HarnessFault, match=r"file/subject-path' cannot be made: .*Not a directory"):
        subject_path(tmp_path / "file")
