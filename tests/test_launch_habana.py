"""How a launch on Gaudi is made: the recipe's commands word for word, each rank's environment, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from launch_examples import MACHINE, xeon
from ranks_sessions import MPIRUN, needs_mpirun

from conformance.cases import Case, load_cases
from conformance.errors import UsageError
from conformance.fixtures import subject
from conformance.fixtures.hpu import hpu_launch
from conformance.fixtures.options import Options
from conformance.fixtures.ranks import machines, require_ranks
from conformance.fixtures.session import Session
from conformance.fixtures.sizes import training_sizes
from conformance.fixtures.terminal import print_plan
from conformance.fixtures.training import Training
from conformance.hardware.detect import detect
from conformance.hardware.host import Host, cpu_list
from conformance.hardware.match import planned_host
from conformance.launch.habana import (
    HpuLaunch,
    check_bf16_config,
    check_interface,
    jemalloc,
    processing_elements,
)
from conformance.launch.habana_recipe import command, told
from conformance.launch.layout import Ranks, one_of
from conformance.launch.placement import Request, candidates
from conformance.launch.plan import plan_text
from conformance.launch.ranks import compose_ranks, misplaced
from conformance.launch.rules import Composed, compose, subject_path
from conformance.launch.supervision import Limits, Start, run_subjects

SUITE = Path(__file__).parent.parent / "suites" / "gaudi" / "test_gaudi_documented.toml"
PYTHON = "/opt/tf/bin/python"
SUBJECT = (PYTHON, "-m", "conformance.subject", "/run/jobs/case.json")
SEEDS = xeon(2, 28)  # the 112 logical CPUs for which the recipe has PE=7
EIGHT = HpuLaunch(modules=tuple(range(8)), bf16="full")
SERVERS = (
    "192.10.100.174:8,10.10.100.101:8,10.10.100.102:8,10.10.100.203:8,"
    "10.10.100.104:8,10.10.100.205:8,10.10.100.106:8,10.10.100.207:8"
)
SIXTY_FOUR = Ranks(
    world_size=64, machines=machines(SERVERS), network_interface="192.10.100.174/24", ssh_port=3022
)  # fmt: skip

# The commands of ResNeXt/README.md in HabanaAI/Model-References 1.6.1, as they stand there, by the row of the suite.
README = {
    "1-hpu": r"""
  $PYTHON imagenet_main.py -dt bf16 -dlit fp32 -bs 128 -te 90 -ebe 90 --data_dir /data/tensorflow/imagenet/tf_records/
""",
    "1-hpu-jpeg": r"""
  $PYTHON imagenet_main.py -dt bf16 -dlit fp32 -bs 256 -te 90 -ebe 90 --jpeg_data_dir /data/tensorflow/imagenet
""",
    "8-hpus": r"""
  mpirun --allow-run-as-root --tag-output --merge-stderr-to-stdout --output-filename /root/tmp/resnext_log --bind-to core --map-by socket:PE=7 -np 8 \
    $PYTHON imagenet_main.py --use_horovod -dt bf16 -dlit fp32 -bs 128 -te 90 -ebe 90 --data_dir /data/tensorflow/imagenet/tf_records/
""",  # noqa: E501
    "8-hpus-jpeg": r"""
  mpirun --allow-run-as-root --tag-output --merge-stderr-to-stdout --output-filename /root/tmp/resnext_log --bind-to core --map-by socket:PE=7 -np 8 \
    $PYTHON imagenet_main.py --use_horovod -dt bf16 -dlit fp32 -bs 256 -te 90 -ebe 90 --jpeg_data_dir /data/tensorflow/imagenet
""",  # noqa: E501
    "64-hpus": r"""
mpirun \
 --allow-run-as-root --mca plm_rsh_args -p3022 \
 --bind-to core \
 --map-by socket:PE=7 -np 64 \
 --mca btl_tcp_if_include 192.10.100.174/24 \
 --tag-output --merge-stderr-to-stdout \
 --output-filename /root/tmp/resnext_log --prefix $MPI_ROOT \
 -H 192.10.100.174:8,10.10.100.101:8,10.10.100.102:8,10.10.100.203:8,10.10.100.104:8,10.10.100.205:8,10.10.100.106:8,10.10.100.207:8 \
 -x GC_KERNEL_PATH -x HABANA_LOGS \
 -x PYTHONPATH -x HCCL_SOCKET_IFNAME=<interface_name> \
   $PYTHON imagenet_main.py \
     --use_horovod -dt bf16 \
     -dlit fp32 \
     -bs 128 \
     -te 90 \
     -ebe 90 \
     --weight_decay 7.93E-05 \
     --data_dir /data/tensorflow/imagenet/tf_records/
""",  # noqa: E501
    "1-hpu-profiler": r"""
$PYTHON imagenet_main.py -dt bf16 -dlit fp32 -bs 128 -te 90 -ebe 90 --data_dir /data/tensorflow/imagenet/tf_records/ \
  --hooks ProfilerHook --profile_steps 5,8 --max_train_steps 10
""",
}
RANKS = {"8-hpus": Ranks(world_size=8), "8-hpus-jpeg": Ranks(world_size=8), "64-hpus": SIXTY_FOUR}

HABANA = {
    "TF_BF16_CONVERSION": "full",
    "TF_ENABLE_DYNAMIC_SHAPES": "false",
    "TF_DISABLE_MKL": "1",
    "TF_ALLOW_CONTROL_EDGES_IN_HABANA_OPS": "1",
}
OF_RANKS = {
    "PYTHONPATH": "/run/subject-path",
    "PYTHONNOUSERSITE": "1",
    **HABANA,
    "HABANA_VISIBLE_MODULES": "0,1,2,3,4,5,6,7",
    "HOROVOD_STALL_CHECK_TIME_SECONDS": "10",
    "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "600",
    "CONFORMANCE_LAUNCH": "/run/jobs/case.json",
}
OF_SETUP = {"GC_KERNEL_PATH": "/lib/kernels.so", "HABANA_LOGS": "/var/log/habana_logs"}  # by Habana's installation
KEEPALIVE = {
    "OMPI_MCA_oob_tcp_keepalive_time": "10",
    "OMPI_MCA_oob_tcp_keepalive_intvl": "5",
    "OMPI_MCA_oob_tcp_keepalive_probes": "3",
}
WITHOUT_JEMALLOC = (
    "No libjemalloc.so.1 or libjemalloc.so.2 in /nowhere: the system's malloc is used (apt install libjemalloc2)."
)


def readme(name: str) -> list[str]:
    """Return the words of a command as a shell takes them, with its variables as they stand there."""
    return README[name].replace("\\\n", " ").split()


def row(name: str) -> Case:
    return next(case for case in load_cases(SUITE) if case.id == f"resnext101_32x4d-imagenet-bf16-{name}")


def composed(
    ranks: Ranks,
    host: Host = SEEDS,
    *,
    hpu: HpuLaunch = EIGHT,
    environ: dict[str, str] | None = None,
    request: Request | None = None,
    program: str = "mpirun",
) -> Composed:
    return compose_ranks(
        program,
        PYTHON,
        Path("/run/jobs/case.json"),
        Path("/run/subject-path"),
        Path("/run/logs/case.log"),
        host,
        MACHINE,
        request or Request(),
        ranks,
        "bf16",
        environ or {},
        True,
        (Path("/nowhere"),),
        hpu,
    )


def alone(hpu: HpuLaunch = EIGHT, environ: dict[str, str] | None = None, request: Request | None = None) -> Composed:
    """Return the launch of one process on the machine of the recipe."""
    wanted = request or Request()
    (placement,) = candidates(SEEDS, MACHINE, wanted)[0]
    return compose(
        PYTHON,
        Path("/run/jobs/case.json"),
        Path("/run/subject-path"),
        placement,
        SEEDS,
        MACHINE,
        wanted,
        "bf16" if hpu.bf16 else "fp32",
        environ or {},
        (Path("/nowhere"),),
        hpu,
    )


def exported(made: Composed) -> list[str]:
    return re.findall(r"-x (\S+)", " ".join(made.launched.argv))


# The recipe's commands


@pytest.mark.parametrize("name", README)
def test_the_recipes_command_for_a_row_is_the_readmes_word_for_word(name: str) -> None:
    words = command(row(name), SEEDS, EIGHT, RANKS.get(name))
    assert words == tuple(readme(name))


def test_a_plan_of_one_hpu_has_the_readmes_command_above_its_own() -> None:
    sentences = told(row("1-hpu"), SEEDS, EIGHT, None, None, None)
    above, line = plan_text(alone(), sentences).rsplit("\n", 1)
    assert above.splitlines() == [
        f"# {WITHOUT_JEMALLOC}",
        f"# The recipe starts `{' '.join(readme('1-hpu'))}`.",
    ]
    assert shlex.split(line)[-4:] == list(SUBJECT)


def test_the_recipes_command_names_the_users_directory_and_interface() -> None:
    assert command(row("1-hpu"), SEEDS, EIGHT, None, "/mnt/records")[-2:] == ("--data_dir", "/mnt/records")
    assert "HCCL_SOCKET_IFNAME=ens" in command(row("64-hpus"), SEEDS, EIGHT, SIXTY_FOUR, None, "ens")


def test_what_a_row_has_of_its_own_is_a_flag_of_the_script_or_told() -> None:
    words = " ".join(command(row("64-hpus-no-checkpoints"), SEEDS, EIGHT, SIXTY_FOUR))
    assert words.endswith(
        "--weight_decay 7.93E-05 --data_dir /data/tensorflow/imagenet/tf_records/ --disable_checkpoints"
    )
    sentence, missing = told(row("1-hpu-250-epochs"), SEEDS, EIGHT, None, None, None)
    assert "-te 250 -ebe 10 " in sentence
    assert missing == "The README has MixUp for this; its script has no flag and no code for it."
    case = row("1-hpu")
    assert case.training is not None
    other = msgspec.structs.replace(
        case.training, momentum=0.9, label_smoothing=0.0, fine_tune=True, image_type="bf16", stop_threshold=0.79
    )
    words = " ".join(command(msgspec.structs.replace(case, training=other), SEEDS, EIGHT, None))
    assert "-dlit bf16 " in words and " --momentum 0.9 --label_smoothing 0.0 " in words
    assert words.endswith(" --stop_threshold 0.79 --fine_tune")


def test_a_row_that_is_not_of_the_readme_has_no_command_of_it() -> None:
    digits = msgspec.structs.replace(row("1-hpu"), dataset="digits")
    assert told(digits, SEEDS, EIGHT, None, None, None) == ()


@pytest.mark.parametrize("name", ["1-hpu", "8-hpus"])
def test_a_training_on_hpus_is_launched_as_its_plan_says(name: str) -> None:
    session, case = session_of("gaudi-8"), row(name)
    chosen = training_sizes(case, session.chosen.profile, session.options, 1_281_167)
    task = Training(session).task(case, "bf16", "label", Path("/data"), chosen, 1)
    ((made,),) = subject.plan(session, task)
    assert (task.arguments["device"], task.arguments["bf16_recipe"]) == ("hpu", "full")
    assert {variable: made.launched.env.get(variable) for variable in HABANA} == HABANA
    assert ("--bind-to" in made.launched.argv) == (name == "8-hpus")


NO_SUCH = "HCCL_SOCKET_IFNAME is 'nosuch', and no network interface here begins so; there are "


def planned(name: str, hw: str, **options: Any) -> str:
    """Return what --plan prints of a row on the machine of a profile."""
    out = StringIO()
    print_plan(session_of(hw, **options), [row(name)], out)
    return out.getvalue()


def session_of(hw: str, **options: Any) -> Session:
    """Return a session on the machine that a profile of Gaudi describes."""
    session = Session(Options(hw=hw, plan=True, **options), SUITE.parents[2], ("pytest",), "run-1", None)
    session.host = planned_host(session.chosen.profile, session.host)
    return session


@pytest.mark.parametrize("name", README)
def test_a_plan_shows_the_readmes_command_word_for_word(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCCL_SOCKET_IFNAME", "<interface_name>")
    of_64 = {"hw": "gaudi-64", "hosts": SERVERS, "network_interface": "192.10.100.174/24"}
    lines = planned(name, **(of_64 if name == "64-hpus" else {"hw": "gaudi-8"})).splitlines()
    assert f"# The recipe starts `{' '.join(readme(name))}`." in lines


def test_a_plan_for_more_servers_than_are_named_has_their_places_held() -> None:
    lines = planned("64-hpus", "gaudi-64").splitlines()
    hosts = ",".join(f"HOST{number}:8" for number in range(1, 9))
    assert "# HOST1 and so on stand for your servers: name them with --hosts." in lines
    assert sum(f" -H {hosts} " in line for line in lines) == 2  # the recipe's command, and the harness's
    assert planned("64-hpus", "gaudi-8") == (
        "# resnext101_32x4d-imagenet-bf16-64-hpus is not run here: 64 ranks on one server are more than its 8 Gaudi; "
        "allowed: 1 to 8.\n"
    )


def test_a_recipe_for_hpus_that_is_run_on_a_cpu_has_neither_its_command_nor_intels() -> None:
    lines = planned("8-hpus", "xeon-2s", device="cpu")
    assert " recipe" not in lines.partition("conformance.subject")[0] and " OMP_NUM_THREADS=7 " in lines


def test_an_hpu_that_is_nowhere_is_told_before_anything_is_planned() -> None:
    assert planned("1-hpu", "xeon-2s") == (
        "# resnext101_32x4d-imagenet-bf16-1-hpu is not run here: It is for an HPU, and there is none in 'xeon-2s'.\n"
    )


@pytest.mark.parametrize(
    ("options", "environ", "message"),
    [
        ({}, {"HCCL_SOCKET_IFNAME": "nosuch"}, NO_SUCH),
        ({"network_interface": "nosuch"}, {}, NO_SUCH),
        ({"hosts": "127.0.0.1:8", "network_interface": "nosuch"}, {}, NO_SUCH),
        ({"mpi_num_processes_per_socket": 4}, {},
         "--mpi-num-processes-per-socket 4 is for ranks on CPUs: those on HPUs are dealt out to the sockets."),
        ({"mpi_num_processes": 9}, {}, "9 ranks on one server are more than its 8 Gaudi; allowed: 1 to 8."),
    ],
)  # fmt: skip
def test_what_ranks_on_hpus_cannot_be_asked_for_is_refused_before_they_start(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], environ: dict[str, str], message: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=re.escape(message)):
        require_ranks(session_of("gaudi-8", **options), row("8-hpus"))


# What the harness starts


def test_one_hpu_is_a_process_without_mpirun_and_without_variables_of_onednn() -> None:
    made = alone()
    assert made.launched.argv == SUBJECT
    assert list(made.launched.env.items()) == list(
        {"PYTHONPATH": "/run/subject-path", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1", **HABANA}.items()
    )
    assert made.notes == (WITHOUT_JEMALLOC,)


def test_8_hpus_are_started_in_the_recipes_words() -> None:
    made = composed(Ranks(world_size=8))
    recipe = readme("8-hpus")
    start = [
        word for word in recipe[: recipe.index("$PYTHON")] if word not in ("--output-filename", "/root/tmp/resnext_log")
    ]
    passed = [word for name in OF_RANKS for word in ("-x", name)]
    assert made.launched.argv == (*start, *passed, *SUBJECT)
    assert list(made.launched.env.items()) == list(OF_RANKS.items())
    assert made.notes == (WITHOUT_JEMALLOC,)


def test_ranks_on_8_hpus_get_7_cores_each_of_the_two_sockets_in_turn() -> None:
    launched = composed(Ranks(world_size=8)).launched
    assert [cpu_list(rank) for rank in launched.ranks] == [
        "0-6,56-62", "28-34,84-90", "7-13,63-69", "35-41,91-97",
        "14-20,70-76", "42-48,98-104", "21-27,77-83", "49-55,105-111",
    ]  # fmt: skip
    assert (launched.inter_op_threads, launched.intra_op_threads) == (7, 7)
    assert len(launched.cpus) == len(set(launched.cpus)) == 56 and launched.memory_nodes == (0, 1)


def test_64_hpus_are_started_in_the_recipes_words_and_one_more() -> None:
    environ = {
        **OF_SETUP,
        "HCCL_SOCKET_IFNAME": "ens",
        "MPI_ROOT": "/opt/openmpi",
        "PYTHONPATH": "/usr/lib/habanalabs",
    }
    made = composed(SIXTY_FOUR, environ=environ)
    recipe = [word.replace("$MPI_ROOT", "/opt/openmpi") for word in readme("64-hpus")]
    start = recipe[: recipe.index("-x")]
    del start[start.index("--output-filename") : start.index("--prefix")]
    first = ("GC_KERNEL_PATH", "HABANA_LOGS", "PYTHONPATH", "HCCL_SOCKET_IFNAME")
    names = [*first, *(name for name in OF_RANKS if name != "PYTHONPATH")]
    assert made.launched.argv == (
        *start,
        *("--mca", "oob_tcp_if_include", "192.10.100.174/24"),
        *(word for name in names for word in ("-x", name)),
        *SUBJECT,
    )
    assert made.launched.env == {**OF_RANKS, "PYTHONPATH": "/run/subject-path:/usr/lib/habanalabs", **KEEPALIVE}
    assert made.launched.hosts[:9] == ("192.10.100.174",) * 8 + ("10.10.100.101",)
    assert made.launched.ranks[:8] == made.launched.ranks[56:]


def test_an_mpirun_by_its_path_says_itself_where_open_mpi_is() -> None:
    made = composed(SIXTY_FOUR, environ={"MPI_ROOT": "/opt/openmpi"}, program="/stack/bin/mpirun")
    assert made.launched.argv[0] == "/stack/bin/mpirun" and "--prefix" not in made.launched.argv


def test_an_interface_by_its_name_is_hccls_too() -> None:
    ranks = msgspec.structs.replace(SIXTY_FOUR, network_interface="ens1f0")
    made = composed(ranks)
    assert made.launched.env["HCCL_SOCKET_IFNAME"] == "ens1f0"
    assert exported(made)[:2] == ["PYTHONPATH", "HCCL_SOCKET_IFNAME"]
    assert composed(ranks, environ={"HCCL_SOCKET_IFNAME": "ib"}).notes[0] == (
        "HCCL_SOCKET_IFNAME=ib of your environment is kept; the rule is ens1f0."
    )
    assert "HCCL_SOCKET_IFNAME" not in composed(SIXTY_FOUR).launched.env  # of a network HCCL is not told


def test_other_servers_get_what_the_user_set_for_habana_and_this_one_has_it() -> None:
    users = ["FORCE_HABANA_IMAGENET_LOADER_FALLBACK", "HABANA_INITIAL_WORKSPACE_SIZE_MB", "TF_XLA_FLAGS"]
    environ = {**dict.fromkeys((*users, "TF_CONFORMANCE_CACHE", "TF_VAR_x", "HOME"), "1"), "HBN_UNSET": ""}
    assert exported(composed(SIXTY_FOUR, environ=environ))[-4:] == ["CONFORMANCE_LAUNCH", *users]
    assert not set(users) & set(exported(composed(Ranks(world_size=8), environ=environ)))
    fp32 = composed(SIXTY_FOUR, environ={"TF_BF16_CONVERSION": "full"}, hpu=HpuLaunch(modules=tuple(range(8))))
    assert "TF_BF16_CONVERSION" not in exported(fp32) and fp32.launched.env["TF_BF16_CONVERSION"] is None


def test_the_users_own_values_win_and_are_told() -> None:
    environ = {
        "TF_BF16_CONVERSION": "basic",
        "TF_ENABLE_DYNAMIC_SHAPES": "true",
        "TF_DISABLE_MKL": "",
        "HABANA_VISIBLE_MODULES": "4,5,6,7",
        "OMP_NUM_THREADS": "3",
    }
    made = composed(Ranks(world_size=4), environ=environ)
    kept = [
        "TF_BF16_CONVERSION=basic of your environment is kept; the rule is full.",
        "TF_ENABLE_DYNAMIC_SHAPES=true of your environment is kept; the rule is false.",
        "HABANA_VISIBLE_MODULES=4,5,6,7 of your environment is kept; the rule is 0,1,2,3.",
    ]
    assert [note for note in made.notes if "is kept" in note] == kept
    assert made.launched.env["TF_DISABLE_MKL"] == "1" and "TF_BF16_CONVERSION" not in made.launched.env
    assert exported(made)[-3:] == ["TF_BF16_CONVERSION", "TF_ENABLE_DYNAMIC_SHAPES", "HABANA_VISIBLE_MODULES"]


def test_an_fp32_case_converts_nothing_whatever_the_user_set() -> None:
    fp32 = HpuLaunch(modules=(0,))
    made = alone(fp32, {"TF_BF16_CONVERSION": "full"})
    assert made.launched.env["TF_BF16_CONVERSION"] is None
    assert made.notes[0] == "TF_BF16_CONVERSION=full of your environment is not passed on: the case is fp32."
    assert "TF_BF16_CONVERSION" not in alone(fp32).launched.env


def test_the_users_python_path_comes_after_the_harnesss_own() -> None:
    made = alone(environ={"PYTHONPATH": "/root:/usr/lib/habanalabs"})
    assert made.launched.env["PYTHONPATH"] == "/run/subject-path:/root:/usr/lib/habanalabs"
    assert made.notes == (WITHOUT_JEMALLOC,)


def test_threads_are_those_of_the_ranks_cores_unless_they_are_asked_for() -> None:
    asked = composed(Ranks(world_size=8), request=Request(num_inter_threads=2, num_intra_threads=5)).launched
    assert (asked.inter_op_threads, asked.intra_op_threads) == (2, 5)
    launched = alone().launched
    assert (launched.inter_op_threads, launched.intra_op_threads) == (56, 56)


def test_servers_that_join_see_all_their_modules_and_a_part_of_one_its_first() -> None:
    hpu = HpuLaunch(modules=(4, 5, 6, 7), bf16="full")
    two = Ranks(world_size=2)
    assert composed(two, hpu=hpu).launched.env["HABANA_VISIBLE_MODULES"] == "4,5"
    joined = Ranks(world_size=4, machines=machines("h1:2,h2:2"))
    assert composed(joined, hpu=hpu).launched.env["HABANA_VISIBLE_MODULES"] == "4,5,6,7"


def test_one_of_the_ranks_by_itself_has_the_cores_and_the_module_of_the_first() -> None:
    one = composed(one_of(Ranks(world_size=8), SEEDS)).launched
    assert one.argv[4:10] == ("--bind-to", "core", "--map-by", "socket:PE=7", "-np", "1")
    assert [cpu_list(rank) for rank in one.ranks] == ["0-6,56-62"] and one.env["HABANA_VISIBLE_MODULES"] == "0"


def test_slurm_gets_the_recipes_words_without_its_servers() -> None:
    made = composed(msgspec.structs.replace(SIXTY_FOUR, launcher="srun"))
    assert made.script is not None
    (line,) = [line for line in made.script.splitlines() if line.startswith("exec")]
    assert line.startswith(
        "exec mpirun --allow-run-as-root --tag-output --merge-stderr-to-stdout "
        "--bind-to core --map-by socket:PE=7 -np 64 -x "
    )
    assert "#SBATCH --nodes=8" in made.script and "export TF_BF16_CONVERSION=full" in made.script


# Cores


@pytest.mark.parametrize(
    ("logical_cpus", "cores", "ranks", "devices", "each", "note"),
    [
        (112, 56, 8, 8, 7, ""),
        (96, 48, 8, 8, 6, ""),
        (160, 80, 8, 8, 10, ""),
        (56, 56, 8, 8, 7, "divides 56 cores by 8 Gaudi; the repository's helper would divide 56 logical CPUs by 8 "
         "ranks and by two threads a core, to 3, "),
        (112, 56, 2, 8, 7, "divides 56 cores by 8 Gaudi; the repository's helper would divide 112 logical CPUs by 2 "
         "ranks and by two threads a core, to 28, "),
        (8, 4, 4, 8, 1, "PE is 1: the documentation divides 4 cores by 8 Gaudi; "),
    ],
)  # fmt: skip
def test_pe_is_the_documentations_and_a_formula_that_differs_is_told(
    logical_cpus: int, cores: int, ranks: int, devices: int, each: int, note: str
) -> None:
    found, notes = processing_elements(logical_cpus, cores, ranks, devices)
    assert found == each
    assert (len(notes), note in "".join(notes)) == (bool(note), True)


def test_a_launch_without_smt_binds_to_the_documentations_cores_and_says_so() -> None:
    made = composed(Ranks(world_size=8), xeon(2, 28, threads=1))
    assert "socket:PE=7" in made.launched.argv and made.notes[0].startswith("PE is 7: ")


@pytest.mark.parametrize(
    ("host", "hpu", "ranks", "message"),
    [
        (SEEDS, EIGHT, Ranks(world_size=9), "9 ranks on one server are more than its 8 Gaudi; allowed: 1 to 8."),
        (SEEDS, EIGHT, Ranks(world_size=9, oversubscribe=True),
         "9 ranks on one server are more than its 8 Gaudi; allowed: 1 to 8."),
        (SEEDS, EIGHT, Ranks(world_size=20, machines=machines("h1:10,h2:10")),
         "10 ranks on one server are more than its 8 Gaudi; allowed: 1 to 8."),
        (xeon(1, 4), EIGHT, Ranks(world_size=8),
         "8 ranks on one machine are more than the 4 cores that this process may use; allowed: 1 to 4."),
        (xeon(2, 7), HpuLaunch(modules=(0, 1, 2)), Ranks(world_size=3),
         "2 ranks of 4 cores (PE=4) on one socket are more than its 7 cores."),
        (SEEDS, EIGHT, Ranks(world_size=8, launcher="horovodrun"),
         "horovodrun joins ranks by Gloo, which Habana's Horovod is built without."),
    ],
)  # fmt: skip
def test_ranks_that_do_not_fit_a_server_are_told_with_figures(
    host: Host, hpu: HpuLaunch, ranks: Ranks, message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        composed(ranks, host, hpu=hpu)
    assert raised.value.message == message


@pytest.mark.parametrize(("host", "hpu"), [(xeon(1, 4), EIGHT), (xeon(2, 7), HpuLaunch(modules=(0, 1, 2)))])
def test_ranks_may_share_cores_where_that_is_asked_for(host: Host, hpu: HpuLaunch) -> None:
    made = composed(Ranks(world_size=hpu.devices, oversubscribe=True), host, hpu=hpu)
    words = made.launched.argv
    assert words[4:9] == ("--oversubscribe", "-bind-to", "none", "-map-by", "slot")
    assert any("share" in note for note in made.notes)


def test_a_part_of_a_server_that_the_documentation_leaves_out_is_told() -> None:
    told_of_3 = "3 of 8 Gaudi: of a part of a server, the documentation supports 2 and 4 only."
    assert told_of_3 in composed(Ranks(world_size=3)).notes
    assert not any("documentation supports" in note for note in composed(Ranks(world_size=4)).notes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0,1", "HABANA_VISIBLE_MODULES=0,1 of your environment leaves 2 Gaudi to 4 ranks."),
        ("all", "HABANA_VISIBLE_MODULES='all' of your environment is no list of different module numbers."),
        ("0,1,1,2", "HABANA_VISIBLE_MODULES='0,1,1,2' of your environment is no list of different module numbers."),
        ("0,1,2,", "HABANA_VISIBLE_MODULES='0,1,2,' of your environment is no list of different module numbers."),
    ],
)
def test_modules_that_are_not_enough_for_the_ranks_are_refused(value: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        composed(Ranks(world_size=4), environ={"HABANA_VISIBLE_MODULES": value})
    assert raised.value.message == message


def test_a_module_for_each_process_is_no_list_for_all() -> None:
    with pytest.raises(UsageError) as raised:
        composed(Ranks(world_size=2), environ={"HLS_MODULE_ID": "0"})
    assert raised.value.message == "HLS_MODULE_ID=0 of your environment gives one Gaudi to 2 ranks."
    assert "HLS_MODULE_ID" not in composed(Ranks(world_size=1), environ={"HLS_MODULE_ID": "0"}).launched.env


@pytest.mark.parametrize(("value", "modules"), [("all", "0,1"), ("2,3", None)])
def test_a_container_with_some_of_the_devices_numbers_their_modules_itself(value: str, modules: str | None) -> None:
    made = composed(Ranks(world_size=2), environ={"HABANA_VISIBLE_DEVICES": value})
    assert made.launched.env.get("HABANA_VISIBLE_MODULES") == modules


# jemalloc


@pytest.mark.parametrize("name", ["libjemalloc.so.1", "libjemalloc.so.2"])
def test_jemalloc_is_preloaded_before_what_the_user_preloads(tmp_path: Path, name: str) -> None:
    library = tmp_path / name
    library.touch()
    (tmp_path / "libjemalloc.so.3").touch()
    places = (tmp_path / "missing", tmp_path)
    assert jemalloc({}, places) == ({"LD_PRELOAD": str(library)}, ())
    assert jemalloc({"LD_PRELOAD": "/mine.so"}, places) == ({"LD_PRELOAD": f"{library}:/mine.so"}, ())


def test_a_malloc_of_the_users_is_kept_and_told_where_it_is_another(tmp_path: Path) -> None:
    (tmp_path / "libjemalloc.so.2").touch()
    assert jemalloc({"LD_PRELOAD": "/opt/libjemalloc.so.2"}, (tmp_path,)) == ({}, ())
    assert jemalloc({"LD_PRELOAD": "/opt/libtcmalloc.so"}, (tmp_path,)) == (
        {},
        ("LD_PRELOAD=/opt/libtcmalloc.so of your environment is kept; the recipe preloads jemalloc.",),
    )


def test_jemalloc_is_looked_for_where_the_recipe_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[Path] = []

    def exists(path: Path) -> bool:
        looked_for.append(path)
        return False

    monkeypatch.setattr(Path, "exists", exists)
    _, (note,) = jemalloc({})
    folders = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"))
    assert looked_for == [folder / f"libjemalloc.so.{number}" for folder in folders for number in (1, 2)]
    assert "in /usr/lib/x86_64-linux-gnu, /usr/lib64: the system's malloc is used" in note


# Conversion to bfloat16

WHOLE = {
    "allow_list": ["Conv2D", "MatMul"],
    "conditional_list": ["Identity"],
    "strict_conditional_list": ["AddV2"],
    "non_convertible_exceptions": [[".*KEEP_FP32_PRECISION.*", ""]],
    "convertible_exceptions": [["global_norm/mul", "Mul"]],
}


def test_a_conversion_is_full_or_a_file_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps(WHOLE))
    assert check_bf16_config("full") == "full"
    assert check_bf16_config("mine.json") == str(tmp_path / "mine.json")
    (tmp_path / "mine.json").write_text('{"allowlist": ["Conv2D"]}')
    made = alone(HpuLaunch(modules=(0,), bf16=check_bf16_config("mine.json")))
    assert made.launched.env["TF_BF16_CONVERSION"] == str(tmp_path / "mine.json")


def test_a_name_of_a_list_that_the_library_passes_over_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(WHOLE))
    session = session_of("gaudi-8", bf16_config=str(path))
    hpu = hpu_launch(session, row("8-hpus"), "bf16")
    assert hpu is not None
    assert composed(Ranks(world_size=8), hpu=hpu).notes[0] == (
        f"{path} has an 'allow_list'; habana-tensorflow 1.6.1 knows the name 'allowlist' only."
    )
    path.write_text('{"allowlist": ["Conv2D"]}')
    assert hpu_launch(session, row("8-hpus"), "bf16") == HpuLaunch(modules=tuple(range(8)), bf16=str(path))
    assert hpu_launch(session, row("8-hpus"), "fp32") == HpuLaunch(modules=tuple(range(8)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no such file: Input data was truncated."),
        ("[]", "is no such file: Expected `object`, got `array`."),
        ('{"allow": []}', "is no such file: Object contains unknown field `allow`."),
        ('{"allow_list": "Conv2D"}', "is no such file: Expected `array`, got `str` - at `$.allow_list`."),
        ('{"allow_list": [1]}', "is no such file: Expected `str`, got `int` - at `$.allow_list[0]`."),
        ('{"convertible_exceptions": ["Mul"]}',
         "is no such file: Expected `array`, got `str` - at `$.convertible_exceptions[0]`."),
        ('{"convertible_exceptions": [["Mul"]]}',
         "is no such file: Expected `array` of length 2 - at `$.convertible_exceptions[0]`."),
        ('{"conditional_list": ["Add"]}',
         "converts nothing: its allow_list and convertible_exceptions are empty."),
        (None, "cannot be read: No such file or directory."),
    ],
)  # fmt: skip
def test_a_conversion_that_is_none_is_told_with_the_lists_that_there_are(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as raised:
        check_bf16_config(str(path))
    assert raised.value.message == f"--bf16-config {str(path)!r} {message}"
    assert raised.value.hint == (
        "Give --bf16-config full, or a JSON file with lists under allow_list, allowlist, conditional_list, "
        "strict_conditional_list, non_convertible_exceptions, convertible_exceptions."
    )


def test_a_conversion_has_its_first_list_under_one_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"allow_list": ["Add"], "allowlist": ["Mul"]}')
    with pytest.raises(UsageError, match="has both an 'allow_list' and an 'allowlist'"):
        check_bf16_config(str(path))


# HCCL_SOCKET_IFNAME


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """The folder in which Linux tells of network interfaces, with some that are up and some that are not."""
    states = {"lo": "unknown", "ens1f0": "up", "ens1f1": "down", "ib0": "down", "ib1": "lowerlayerdown"}
    for name, state in states.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "operstate").write_text(f"{state}\n")
    return tmp_path


def test_an_interface_that_is_up_is_taken_by_the_beginning_of_its_name(net: Path) -> None:
    assert check_interface("ens1f0", net) == check_interface("lo", net) == ()
    assert check_interface("ens", net) == ("HCCL_SOCKET_IFNAME is 'ens', and ens1f1 is down.",)


@pytest.mark.parametrize(
    ("prefix", "message", "hint"),
    [
        (
            "eth",
            "HCCL_SOCKET_IFNAME is 'eth', and no network interface here begins so; "
            "there are ens1f0, ens1f1, ib0, ib1, lo.",
            "Name one of them with --network-interface.",
        ),
        (
            "ib",
            "HCCL_SOCKET_IFNAME is 'ib', and ib0, ib1 is down; up are ens1f0.",
            "ip link set ib0 up, or name another with --network-interface.",
        ),
    ],
)
def test_an_interface_that_hccl_could_not_use_is_refused(net: Path, prefix: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_interface(prefix, net)
    assert (raised.value.message, raised.value.hint) == (message, hint)


def test_the_loopback_of_this_machine_is_an_interface() -> None:
    assert check_interface("lo") == ()


# Launches by a fake mpirun, and by the real one

FAKE_MPIRUN = """#!{python}
# A fake mpirun: it starts all ranks here with what -x passes on and nothing else, as they are on other servers.
import json, os, subprocess, sys
json.dump(sys.argv, open("argv.json", "w"))
words, slots, size, passed = sys.argv[1:], 0, 0, {{"PATH": os.environ["PATH"]}}
while words[0].startswith("-"):
    word = words.pop(0)
    if word == "--mca":
        words = words[2:]
    elif word not in ("--allow-run-as-root", "--tag-output", "--merge-stderr-to-stdout"):
        value = words.pop(0)
        if word == "-np":
            size = int(value)
        elif word == "-H":
            slots = int(value.partition(":")[2].partition(",")[0])
        elif word == "-x":
            passed[value] = os.environ[value]
ranks = []
for rank in range(size):
    of_rank = dict(OMPI_COMM_WORLD_RANK=str(rank), OMPI_COMM_WORLD_LOCAL_RANK=str(rank % (slots or size)))
    ranks.append(subprocess.Popen(words, env=dict(passed, **of_rank)))
sys.exit(max(rank.wait() for rank in ranks))
"""
RANK = """
import os, sys, time
from conformance import wire
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
def say(kind, **fields):
    with open(sys.argv[1] + (f".rank{rank}" if rank else ""), "ab") as file:
        file.write(wire.event_line(kind, fields))
say(wire.STARTED, environ=dict(os.environ), affinity=sorted(os.sched_getaffinity(0)))
"""
LIMITS = Limits(time_limit_s=30, silence_limit_s=20, grace_s=1)


def start(
    directory: Path, program: str, ranks: Ranks, host: Host, hpu: HpuLaunch, body: str = "say(wire.RESULT, result=rank)"
) -> Start:
    """Return how ranks are started that run a few lines of Python with the environment of ranks on Gaudi."""
    made = compose_ranks(
        program,
        sys.executable,
        directory / "job.json",
        subject_path(directory),
        directory / "log",
        host,
        MACHINE,
        Request(),
        ranks,
        "bf16",
        dict(os.environ),
        os.geteuid() == 0,
        (directory,),
        hpu,
    )
    events = directory / "events"
    argv = (*made.launched.argv[:-4], sys.executable, "-c", RANK + body, str(events))
    launched = msgspec.structs.replace(made.launched, argv=argv)
    return Start(launched=launched, events_path=events, log_path=directory / "log", cwd=directory)


def events(start: Start, limits: Limits = LIMITS) -> Any:
    (outcome,) = run_subjects([start], limits, lambda index, event: None)
    return outcome


@pytest.mark.parametrize(
    ("ranks", "more"),
    [
        (Ranks(world_size=8), {}),
        (
            Ranks(world_size=16, machines=machines("h1:8,h2:8"), network_interface="ens1f0", ssh_port=3022),
            {
                "HCCL_SOCKET_IFNAME": "ens1f0",
                **OF_SETUP,
            },
        ),
    ],
)
def test_each_rank_sees_the_recipes_environment_variable_by_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: Ranks, more: dict[str, str]
) -> None:
    for name in list(os.environ):
        if name not in ("PATH", "HOME", "TMPDIR"):
            monkeypatch.delenv(name)
    fake = tmp_path / "bin" / "mpirun"
    fake.parent.mkdir()
    fake.write_text(FAKE_MPIRUN.format(python=sys.executable))
    fake.chmod(0o755)
    library = tmp_path / "libjemalloc.so.2"
    library.touch()  # the loader ignores what is no library, and says so
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    for name, value in OF_SETUP.items():
        monkeypatch.setenv(name, value)
    outcome = events(start(tmp_path, "mpirun", ranks, SEEDS, EIGHT))
    assert outcome.failure is None
    started = [event for event in outcome.events if event["event"] == "started"]
    assert sorted(event["rank"] for event in started) == list(range(ranks.world_size))
    for event in started:
        seen = {k: v for k, v in event["environ"].items() if k not in ("PATH", "LC_CTYPE")}
        assert seen.pop("OMPI_COMM_WORLD_RANK") == str(event["rank"])
        assert seen.pop("OMPI_COMM_WORLD_LOCAL_RANK") == str(event["rank"] % 8)
        assert seen == {
            **OF_RANKS,
            **more,
            "PYTHONPATH": str(tmp_path / "subject-path"),
            "CONFORMANCE_LAUNCH": str(tmp_path / "job.json"),
            "LD_PRELOAD": str(library),
        }
    argv = json.loads((tmp_path / "argv.json").read_text())
    assert argv[1 : argv.index("-x")] == [word for word in (
        "--allow-run-as-root" if os.geteuid() == 0 else "",
        *(("--mca", "plm_rsh_args", "-p3022") if ranks.machines else ("--tag-output", "--merge-stderr-to-stdout")),
        "--bind-to", "core", "--map-by", "socket:PE=7", "-np", str(ranks.world_size),
        *(("--mca", "btl_tcp_if_include", "ens1f0", "--tag-output", "--merge-stderr-to-stdout", "-H", "h1:8,h2:8",
           "--mca", "oob_tcp_if_include", "ens1f0") if ranks.machines else ()),
    ) if word]  # fmt: skip


def topology(sockets: int, cores: int) -> str:
    """Return a machine with two threads a core as hwloc reads it, numbered as Linux numbers it."""
    total, ids = sockets * cores, iter(range(1, 10_000))

    def place(cpus: list[int], nodes: list[int]) -> str:
        masks = [f"0x{sum(1 << bit for bit in bits):032x}" for bits in (cpus, nodes)]
        cpuset, nodeset = (",".join(f"0x{m[2:][i : i + 8]}" for i in range(0, 32, 8)) for m in masks)
        both = f'cpuset="{cpuset}" complete_cpuset="{cpuset}" nodeset="{nodeset}" complete_nodeset="{nodeset}"'
        return f'{both} allowed_cpuset="{cpuset}" allowed_nodeset="{nodeset}" gp_index="{next(ids)}"'

    packages = ""
    for package in range(sockets):
        mine = range(package * cores, (package + 1) * cores)
        of_socket = place([cpu + thread * total for cpu in mine for thread in (0, 1)], [package])
        packages += f'<object type="Package" os_index="{package}" {of_socket}>'
        packages += f'<object type="NUMANode" os_index="{package}" {of_socket} local_memory="1073741824"/>'
        for core in mine:
            packages += f'<object type="Core" os_index="{core}" {place([core, core + total], [package])}>'
            for cpu in (core, core + total):
                packages += f'<object type="PU" os_index="{cpu}" {place([cpu], [package])}/>'
            packages += "</object>"
        packages += "</object>"
    whole = place(list(range(2 * total)), list(range(sockets)))
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n<topology version="2.0">\n'
    return f'{head}<object type="Machine" os_index="0" {whole}>{packages}</object></topology>'


@needs_mpirun
@pytest.mark.skipif((os.cpu_count() or 1) > 7, reason="mpirun could bind ranks to the CPUs of the planned machine")
def test_open_mpi_binds_8_ranks_of_the_recipes_machine_where_the_launch_says(tmp_path: Path) -> None:
    """It is told that this is the machine, computes the bindings, and says for each rank which it could not make."""
    (tmp_path / "machine.xml").write_text(topology(2, 28))
    machine = ("--mca", "hwloc_base_topo_file", str(tmp_path / "machine.xml"), "-H", "localhost:8")
    launched = composed(Ranks(world_size=8)).launched
    words = launched.argv[1 : launched.argv.index("-x")]
    each = ("--mca", "orte_base_help_aggregate", "0")
    run = subprocess.run([MPIRUN, *each, *machine, *words, "true"], capture_output=True, text=True, timeout=60)
    bound = set(re.findall(r'for bitmap "([\d,-]+)"', run.stdout + run.stderr))
    assert bound == {cpu_list(rank) for rank in launched.ranks[1:]}, run.stdout + run.stderr


@needs_mpirun
def test_ranks_under_the_recipes_words_run_where_the_launch_put_them(tmp_path: Path) -> None:
    host = detect()
    cores = len(host.usable_cpus())
    hpu = HpuLaunch(modules=tuple(range(min(cores, 2))), bf16="full")
    begun = start(
        tmp_path, MPIRUN, Ranks(world_size=hpu.devices), host, hpu, "print('up'); say(wire.RESULT, result=rank)"
    )
    outcome = events(begun)
    assert outcome.failure is None
    told_by = {event["rank"]: event["affinity"] for event in outcome.events if event["event"] == "started"}
    assert misplaced(begun.launched, [told_by[rank] for rank in sorted(told_by)]) == ()
    assert sorted(outcome.log_tail) == [f"[1,{rank}]<stdout>:up" for rank in range(hpu.devices)]


FAKE_SSH = """#!/bin/sh
# A fake ssh: it runs the command here, in a session that has the other server's name and nothing of the environment.
while case $1 in -*) true;; *) false;; esac; do shift; done
name=$1; shift
exec env -i PATH="$PATH" unshare --uts sh -c 'hostname "$0"; eval "$1"' "$name" "$*"
"""


@needs_mpirun
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a process another host name")
def test_ranks_of_two_servers_see_the_same_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(FAKE_SSH)
    ssh.chmod(0o755)
    users = {**OF_SETUP, "HCCL_SOCKET_IFNAME": "lo", "HABANA_LOGS": "/logs", "LOG_LEVEL_ALL": "3"}
    for name, value in {**users, "OMPI_MCA_plm_rsh_agent": str(ssh)}.items():
        monkeypatch.setenv(name, value)
    servers = machines(f"{socket.gethostname()}:1,elsewhere:1")
    ranks = Ranks(world_size=2, machines=servers, network_interface="127.0.0.0/8", ssh_port=3022)
    hpu = HpuLaunch(modules=(0, 1), bf16="full")
    outcome = events(start(tmp_path, MPIRUN, ranks, detect(), hpu, "say(wire.RESULT, result=os.uname().nodename)"))
    assert outcome.failure is None, outcome.log_tail
    results = {event["rank"]: event["result"] for event in outcome.events if event["event"] == "result"}
    assert results == {0: socket.gethostname(), 1: "elsewhere"}
    for event in outcome.events:
        if event["event"] == "started":
            seen = event["environ"]
            assert {name: seen.get(name) for name in users} == users
            assert {name: seen.get(name) for name in HABANA} == HABANA and seen["HABANA_VISIBLE_MODULES"] == "0,1"


@needs_mpirun
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_rank_that_the_others_wait_for_is_named_from_either_stream(tmp_path: Path, stream: str) -> None:
    """Open MPI 4.1.8 merges the streams in the files of --output-filename only; other releases may do it here, too."""
    body = f"""
say(wire.PHASE, name="train")
say(wire.PROGRESS, done=1, total=9, unit="steps")
if rank == 0:
    print("Missing ranks:\\n1: [sum, gradients ...]", file=sys.{stream})
for _ in range(100):
    time.sleep(0.1)
    say(wire.ALIVE)
"""
    hpu = HpuLaunch(modules=(0, 1), bf16="full")
    begun = start(tmp_path, MPIRUN, Ranks(world_size=2, oversubscribe=True), detect(), hpu, body)
    limits = Limits(time_limit_s=30, silence_limit_s=20, standstill_limit_s=1, grace_s=1)
    outcome = events(begun, limits)
    assert f"[1,0]<{stream}>:Missing ranks:" in (tmp_path / "log").read_text()
    assert outcome.failure is not None
    message = r"Rank 1 of 2 hung: the others waited for it for [1-3] s in the phase 'train'\."
    assert re.fullmatch(message, outcome.failure.message)
