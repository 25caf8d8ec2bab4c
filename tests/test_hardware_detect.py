from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from conformance.errors import HarnessFault
from conformance.hardware.detect import (
    detect,
    digest,
    identity,
    make_host,
    parse_lscpu,
    parse_topology,
    topology_of_summary,
)
from conformance.hardware.host import Cpu, Host, parse_cpu_list, usable_cores
from conformance.hardware.isa import native_precisions

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("lscpu_*"))
AMX = "lscpu_1x2_smt1_numa1_virtual-amx"
OLD = "lscpu_8x16_smt1_numa8_old-format.txt"
NODES = "lscpu_2x8_smt2_numa8_more-nodes-than-sockets.txt"
GAUDI2 = "lscpu_2x40_smt2_numa1_gaudi2-server.txt"
GAUDI2_NODES = "lscpu_2x40_smt2_numa2_gaudi2-server.txt"


def recorded(name: str) -> str:
    return (Path(__file__).parent / "recordings" / name).read_text()


def host_of(name: str, **more: Any) -> Host:
    return make_host(parse_lscpu(recorded(name)), **more)


def summary(sockets: int, cores: int, threads: int, nodes: list[str], **more: str) -> dict[str, str]:
    """Return lscpu's fields of a made-up machine; ``nodes`` holds the CPU list of each NUMA node."""
    return {
        "CPU(s)": str(sockets * cores * threads),
        "Socket(s)": str(sockets),
        "Core(s) per socket": str(cores),
        "Thread(s) per core": str(threads),
        **{f"NUMA node{n} CPU(s)": cpus for n, cpus in enumerate(nodes)},
        **more,
    }


def by_socket(cpus: tuple[Cpu, ...]) -> dict[int, list[int]]:
    return {s: [cpu.id for cpu in cpus if cpu.socket == s] for s in sorted({cpu.socket for cpu in cpus})}


def test_every_recording_is_tried() -> None:
    assert {path.name for path in RECORDINGS} == {f"{AMX}.txt", f"{AMX}.json", OLD, NODES, GAUDI2, GAUDI2_NODES}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_a_recording_gives_what_its_name_says(path: Path) -> None:
    found = re.match(r"lscpu_(\d+)x(\d+)_smt(\d+)_numa(\d+)_", path.name)
    assert found
    sockets, cores, threads, nodes = map(int, found.groups())
    host = make_host(parse_lscpu(path.read_text()))
    assert (host.sockets, host.cores_per_socket, host.threads_per_core) == (sockets, cores, threads)
    assert len(host.nodes) == nodes
    assert len(host.cpus) == sockets * cores * threads
    assert len({cpu.core for cpu in host.cpus}) == sockets * cores
    assert [len(host.usable_cpus(s)) for s in range(sockets)] == [cores] * sockets


@pytest.mark.parametrize(
    ("name", "vendor", "model_name", "family", "model", "hypervisor"),
    [
        (f"{AMX}.txt", "GenuineIntel", "Intel(R) Xeon(R) Processor", 6, 167, "KVM"),
        (f"{AMX}.json", "GenuineIntel", "Intel(R) Xeon(R) Processor", 6, 167, "KVM"),
        (NODES, "AuthenticAMD", "AMD EPYC 7251 8-Core Processor", 23, 1, None),
        (GAUDI2, "GenuineIntel", "Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", 6, 106, None),
        (OLD, "GenuineIntel", "unknown", 6, 63, None),
    ],
)
def test_a_recording_names_its_processor(
    name: str, vendor: str, model_name: str, family: int, model: int, hypervisor: str | None
) -> None:
    host = host_of(name)
    assert (host.architecture, host.vendor, host.model_name) == ("x86_64", vendor, model_name)
    assert (host.family, host.model, host.hypervisor) == (family, model, hypervisor)


@pytest.mark.parametrize(
    ("name", "native"),
    [
        (f"{AMX}.txt", ("fp32", "bf16", "int8")),
        (f"{AMX}.json", ("fp32", "bf16", "int8")),
        (GAUDI2, ("fp32", "int8")),
        (OLD, ("fp32",)),
    ],
)
def test_native_precisions_follow_from_the_flags(name: str, native: tuple[str, ...]) -> None:
    assert native_precisions(host_of(name)) == native


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("", ("fp32",)),
        ("avx512f avx512bw", ("fp32",)),
        ("avx512_vnni", ("fp32", "int8")),
        ("avx_vnni", ("fp32", "int8")),
        ("avx512_bf16", ("fp32", "bf16")),
        ("amx_tile amx_bf16", ("fp32", "bf16")),
        ("amx_tile amx_int8", ("fp32", "int8")),
    ],
)
def test_one_flag_makes_a_precision_native(flags: str, native: tuple[str, ...]) -> None:
    assert native_precisions(host_of(OLD, flags=flags)) == native


def test_json_and_plain_output_give_the_same_machine() -> None:
    assert host_of(f"{AMX}.json") == host_of(f"{AMX}.txt")


def test_nested_json_gives_the_fields_within_fields() -> None:
    inner = {"field": "Model name:", "data": "Xeon", "children": [{"field": "CPU family:", "data": "6"}]}
    outer = {"field": "Vendor ID:", "data": "GenuineIntel", "children": [inner]}
    text = json.dumps({"lscpu": [outer, {"field": "NUMA:", "data": None, "children": []}]})
    assert parse_lscpu(text) == {"Vendor ID": "GenuineIntel", "Model name": "Xeon", "CPU family": "6"}


def test_names_are_matched_whole() -> None:
    text = (
        "CPU(s):                  40\n"
        "  On-line CPU(s) list:   0-39\n"
        "Vendor ID:               GenuineIntel\n"
        "  BIOS Vendor ID:        Intel\n"
        "  Model name:            Xeon\n"
        "    BIOS Model name:     Xeon CPU @ 2.2GHz\n"
        "    BIOS CPU family:     179\n"
        "    CPU family:          6\n"
        "    Core(s) per socket:  10\n"
        "    Socket(s):           2\n"
        "    CPU(s) scaling MHz:  86%\n"
    )
    host = make_host(parse_lscpu(text))
    assert (len(host.cpus), host.vendor, host.model_name, host.family) == (40, "GenuineIntel", "Xeon", 6)


@pytest.mark.parametrize(
    "text",
    ["{", '{"cpu": []}', '{"lscpu": 3}', '{"lscpu": ["x"]}', '{"lscpu": [{"data": "2"}]}'],
    ids=["torn", "key", "3", "text", "row"],
)
def test_json_that_is_not_lscpus_is_a_fault(text: str) -> None:
    with pytest.raises(HarnessFault, match=r"^The output of `lscpu -J` cannot be read: \w+Error\("):
        parse_lscpu(text)


@pytest.mark.parametrize(
    "text",
    [
        "Model name: first\nModel name: second\nModel name:\n",
        '{"lscpu": [{"field": "Model name:", "data": "first"}, {"field": "Model name:", "data": "second"}]}',
        '{"lscpu": [{"field": "Model name:", "data": ""}, {"field": "Model name:", "data": "first"}]}',
    ],
    ids=["plain", "json", "json-with-an-empty-one"],
)
def test_of_a_repeated_field_the_first_counts(text: str) -> None:
    assert parse_lscpu(text) == {"Model name": "first"}


def test_a_very_old_lscpu_calls_its_sockets_cpu_sockets() -> None:
    text = "CPU(s): 8\nThread(s) per core: 1\nCore(s) per socket: 4\nCPU socket(s): 2\n"
    assert make_host(parse_lscpu(text)).sockets == 2


@pytest.mark.parametrize("value", ["-", "0", "two"])
@pytest.mark.parametrize("field", ["CPU(s)", "Socket(s)", "Core(s) per socket"])
def test_a_summary_without_its_numbers_is_a_fault(field: str, value: str) -> None:
    with pytest.raises(HarnessFault) as caught:
        make_host({**summary(2, 4, 1, []), field: value})
    assert caught.value.message == f"lscpu says {value!r} where a number of {field!r} above 0 is needed."


def test_a_summary_that_tells_no_threads_has_them_counted() -> None:
    fields = summary(2, 4, 2, [])
    assert make_host({**fields, "Thread(s) per core": "0"}).threads_per_core == 2


@pytest.mark.parametrize(
    ("fields", "sockets"),
    [
        pytest.param(summary(2, 4, 1, ["0-3", "4-7"]), {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}, id="one-node-a-socket"),
        pytest.param(summary(2, 4, 1, ["0-7"]), {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}, id="numa-off"),
        pytest.param(summary(2, 4, 1, []), {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}, id="numa-not-told"),
        pytest.param(summary(2, 4, 1, ["0,2,4,6", "1,3,5,7"]), {0: [0, 2, 4, 6], 1: [1, 3, 5, 7]}, id="interleaved"),
        pytest.param(
            summary(2, 4, 1, ["0,1", "2,3", "4,5", "6,7"]), {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}, id="sub-numa-clusters"
        ),
        pytest.param(
            summary(2, 2, 2, ["0,1,4,5", "2,3,6,7"]), {0: [0, 1, 4, 5], 1: [2, 3, 6, 7]}, id="siblings-come-second"
        ),
        pytest.param(
            summary(2, 2, 1, ["0,1", "2,3", "", ""]), {0: [0, 1], 1: [2, 3]}, id="nodes-of-memory-alone-come-last"
        ),
        pytest.param(
            summary(2, 2, 1, ["0,1", "", "", "2,3"]), {0: [0, 1], 1: [2, 3]}, id="nodes-of-memory-alone-in-between"
        ),
        pytest.param(
            summary(2, 2, 2, ["0,1", "2,3"], **{"On-line CPU(s) list": "0-3", "Off-line CPU(s) list": "4-7"}),
            {0: [0, 1], 1: [2, 3]},
            id="siblings-offline",
        ),
    ],
)
def test_a_socket_is_no_numa_node(fields: dict[str, str], sockets: dict[int, list[int]]) -> None:
    assert by_socket(topology_of_summary(fields)) == sockets


@pytest.mark.parametrize(
    ("fields", "online", "sockets"),
    [
        pytest.param(summary(2, 4, 1, []), "0-3,8-11", {0: [0, 1, 2, 3], 1: [8, 9, 10, 11]}, id="gap"),
        pytest.param(summary(2, 2, 2, []), "0-3,16-19", {0: [0, 1, 16, 17], 1: [2, 3, 18, 19]}, id="gap-of-siblings"),
        pytest.param(
            summary(2, 2, 2, ["0,2,16,18", "1,3,17,19"]), "0-3,16-19", {0: [0, 2, 16, 18], 1: [1, 3, 17, 19]},
            id="interleaved",
        ),
        pytest.param(summary(2, 2, 1, []), "0,2,4,6", {0: [0, 2], 1: [4, 6]}, id="every-second"),
    ],
)  # fmt: skip
def test_cpu_ids_with_gaps_merge_no_cores(fields: dict[str, str], online: str, sockets: dict[int, list[int]]) -> None:
    fields = {**fields, "On-line CPU(s) list": online}
    host = make_host(fields)
    assert by_socket(host.cpus) == sockets
    assert len(host.usable_cpus()) == host.sockets * host.cores_per_socket


@pytest.mark.parametrize(
    ("online", "offline", "cores"),
    [
        ("0,2-7", "1", {0: 0, 2: 2, 3: 3, 4: 0, 5: 1, 6: 2, 7: 3}),
        ("0,2,4,6", "1,3,5,7", {0: 0, 2: 1, 4: 2, 6: 3}),
    ],
    ids=["a-thread", "siblings-next-to-each-other"],
)
def test_cpus_that_are_offline_move_no_other_core(online: str, offline: str, cores: dict[int, int]) -> None:
    lists = {"On-line CPU(s) list": online, "Off-line CPU(s) list": offline}
    assert {cpu.id: cpu.core for cpu in topology_of_summary(summary(2, 2, 2, [], **lists))} == cores


def test_sub_numa_clusters_split_the_cores_of_a_socket() -> None:
    host = make_host(summary(2, 4, 2, ["0,1,8,9", "2,3,10,11", "4,5,12,13", "6,7,14,15"]))
    assert (host.sockets, host.nodes) == (2, (0, 1, 2, 3))
    assert [(cpu.id, cpu.node) for cpu in host.usable_cpus(1)] == [(4, 2), (5, 2), (6, 3), (7, 3)]


@pytest.mark.parametrize(
    ("line", "cpu"),
    [
        ("5,3,1,2", Cpu(id=5, core=3, socket=1, node=2)),
        ("5,3,1,", Cpu(id=5, core=3, socket=1, node=0)),
        ("5,3,1,-", Cpu(id=5, core=3, socket=1, node=0)),
        ("5,,,", Cpu(id=5, core=5, socket=0, node=0)),
        ("5,3,1,2,,3,3,3,1", Cpu(id=5, core=3, socket=1, node=2)),
    ],
    ids=["whole", "no-numa", "dash", "nothing-told", "caches-of-old-versions"],
)
def test_a_line_of_the_topology_is_one_cpu(line: str, cpu: Cpu) -> None:
    assert parse_topology(f"# CPU,Core,Socket,Node\n\n{line}\n") == (cpu,)


@pytest.mark.parametrize("line", ["0,0,0", "x,0,0,0", "Architecture:  x86_64", "-1,0,0,0"])
def test_a_line_that_is_no_cpu_is_a_fault(line: str) -> None:
    with pytest.raises(HarnessFault) as caught:
        parse_topology(f"0,0,0,0\n{line}\n")
    assert caught.value.message == f"`lscpu -p` says {line!r} where CPU,CORE,SOCKET,NODE is needed."


def test_cores_that_begin_anew_on_each_socket_stay_apart() -> None:
    cpus = parse_topology("0,0,0,0\n1,1,0,0\n2,0,1,1\n3,1,1,1\n4,0,0,0\n5,1,0,0\n6,0,1,1\n7,1,1,1\n")
    host = make_host({}, cpus=cpus)
    assert [(cpu.id, cpu.core) for cpu in cpus] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (5, 1), (6, 2), (7, 3)]
    assert (host.sockets, host.cores_per_socket, host.threads_per_core) == (2, 2, 2)
    assert [cpu.id for cpu in host.usable_cpus()] == [0, 1, 2, 3]


def test_a_topology_is_believed_over_the_summary() -> None:
    fields = summary(8, 16, 2, [])
    host = make_host(fields, cpus=parse_topology("0,0,0,0\n1,1,0,0\n2,2,1,1\n3,3,1,1\n"))
    assert (host.sockets, host.cores_per_socket, host.threads_per_core) == (2, 2, 1)


@pytest.mark.parametrize("sockets", ["0", "-"])
def test_a_topology_needs_no_sockets_in_the_summary(sockets: str) -> None:
    assert make_host({"Socket(s)": sockets}, cpus=parse_topology("0,,,\n1,,,\n")).sockets == 1


def test_a_core_that_is_offline_makes_its_socket_no_smaller_in_name() -> None:
    host = make_host({}, cpus=parse_topology("0,0,0,0\n1,1,0,0\n2,2,1,1\n4,0,0,0\n"))
    assert (host.sockets, host.cores_per_socket, host.threads_per_core) == (2, 2, 2)


def test_a_topology_stands_in_for_a_summary_without_numbers() -> None:
    cpus = parse_topology("0,0,0,0\n1,1,0,0\n2,2,1,1\n3,3,1,1\n4,0,0,0\n5,1,0,0\n6,2,1,1\n7,3,1,1\n")
    host = make_host({}, cpus=cpus)
    assert (host.sockets, host.cores_per_socket, host.threads_per_core) == (2, 2, 2)


def test_one_logical_cpu_of_each_core_is_usable_where_affinity_allows_it() -> None:
    host = make_host(summary(1, 4, 2, ["0-7"]), allowed=[1, 4, 5, 6])
    assert [(cpu.id, cpu.core) for cpu in host.usable_cpus()] == [(1, 1), (4, 0), (6, 2)]


def test_only_flags_that_choose_kernels_are_kept() -> None:
    assert host_of(OLD, flags="md_clear avx2 fpu avx2 amx_int8 ibrs").flags == ("amx_int8", "avx2")


@pytest.mark.parametrize(
    ("text", "cpus"), [("", ()), ("3", (3,)), ("0-2,8", (0, 1, 2, 8)), ("0-1,4-5\n", (0, 1, 4, 5))]
)
def test_a_cpu_list_is_read_as_the_kernel_writes_it(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    ("text", "part"),
    [("a-b", "a-b"), ("0-2,x", "x"), ("3-1", "3-1"), ("-", "-"), ("2-", "2-"), ("0-7:2", "0-7:2"), ("0 1", "0 1")],
)
def test_what_is_no_cpu_list_is_a_fault(text: str, part: str) -> None:
    with pytest.raises(HarnessFault) as caught:
        parse_cpu_list(f"{text}\n")
    said = f"{text!r} is no list of CPUs: {part!r} is neither an id nor a range such as '0-3'."
    assert caught.value.message == said
    assert caught.value.hint == "Compare what `lscpu` and /sys/fs/cgroup say; report what they hold."


@pytest.mark.parametrize(
    ("allowed", "quota", "usable"),
    [
        (range(8), None, 4),
        (range(8), 3.9, 3),
        (range(8), 0.5, 1),
        (range(8), 64.0, 4),
        ([1, 5], 3.0, 1),
        ([0, 3, 7], None, 2),
        ([], 2.0, 0),
    ],
)
def test_usable_cores_count_affinity_and_quota(allowed: Iterable[int], quota: float | None, usable: int) -> None:
    assert usable_cores(make_host(summary(1, 4, 2, []), allowed=allowed, quota_cpus=quota)) == usable


def test_usable_cores_of_one_socket_are_its_own() -> None:
    host = make_host(summary(2, 4, 1, []), allowed=[0, 1, 2, 3, 4])
    assert [usable_cores(host, socket) for socket in (0, 1)] == [4, 1]


def test_this_machine_is_detected() -> None:
    host = detect()
    assert len(host.cpus) == os.sysconf("SC_NPROCESSORS_ONLN")
    assert set(host.allowed) == os.sched_getaffinity(0)
    assert 0 < host.memory_bytes <= host.machine_memory_bytes
    assert host.machine_memory_bytes == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )
    assert host.architecture == platform.machine()
    assert 0 < len({cpu.core for cpu in host.cpus}) <= host.sockets * host.cores_per_socket
    assert host.usable_cpus()


def test_the_summary_of_this_machine_agrees_with_what_is_detected() -> None:
    done = subprocess.run(
        ["lscpu", "-J"], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}
    )
    host, told = detect(), make_host(parse_lscpu(done.stdout))
    names = ("vendor", "model_name", "family", "model", "sockets", "cores_per_socket", "threads_per_core", "flags")
    assert [getattr(host, name) for name in names] == [getattr(told, name) for name in names]
    assert host.nodes == told.nodes


@pytest.fixture
def one_cpu() -> Iterator[int]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield max(before)
    os.sched_setaffinity(0, before)


def test_affinity_is_told_and_is_no_part_of_the_identity(one_cpu: int) -> None:
    narrow = detect()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    assert narrow.allowed == (one_cpu,)
    assert identity(narrow) == identity(detect())


def test_the_identity_of_this_machine_is_the_same_in_twenty_calls() -> None:
    found = [detect() for _ in range(20)]
    assert {digest(host) for host in found} == {digest(found[0])}
    assert re.fullmatch(r"[0-9a-f]{12}", digest(found[0]))


def test_the_identity_holds_no_clock_rate_bogomips_or_host_name() -> None:
    known = identity(detect())
    assert set(known) == {
        "architecture", "vendor", "model_name", "family", "model", "sockets", "cores_per_socket", "threads_per_core",
        "numa_nodes", "flags", "memory_gib", "hypervisor",
    }  # fmt: skip
    assert platform.node() not in known.values()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("CPU MHz", "3199.999"),
        ("CPU(s) scaling MHz", "37%"),
        ("CPU max MHz", "4100.0000"),
        ("BogoMIPS", "5187.77"),
        ("Stepping", "9"),
        ("Vulnerability Spectre v2", "Vulnerable"),
        ("Virtualization", "VT-x"),
    ],
)
def test_what_changes_with_a_boot_leaves_the_digest_alone(field: str, value: str) -> None:
    fields = parse_lscpu(recorded(f"{AMX}.txt"))
    assert digest(make_host({**fields, field: value})) == digest(make_host(fields))


@pytest.mark.parametrize(
    "change",
    [{"governor": "powersave"}, {"quota_cpus": 1.5}, {"allowed": (1,)}, {"memory_bytes": 2**30}],
    ids=lambda change: str(*change),
)
def test_what_this_process_is_given_leaves_the_digest_alone(change: dict[str, Any]) -> None:
    host = host_of(f"{AMX}.txt")
    assert digest(msgspec.structs.replace(host, **change)) == digest(host)


@pytest.mark.parametrize(
    ("field", "value"), [("Model", "143"), ("Model name", "Xeon"), ("Flags", "avx2"), ("Hypervisor vendor", "Xen")]
)
def test_another_processor_has_another_digest(field: str, value: str) -> None:
    fields = parse_lscpu(recorded(f"{AMX}.txt"))
    assert digest(make_host({**fields, field: value})) != digest(make_host(fields))


@pytest.mark.parametrize(
    ("memory", "gib"), [(0, None), (2**38, 256), (2**38 - 3 * 10**8, 256), (2**38 - 2**30, 255)],
    ids=["unknown", "whole", "less-what-the-kernel-keeps", "less-a-gib"],
)  # fmt: skip
def test_the_identity_keeps_the_memory_of_the_machine(memory: int, gib: int | None) -> None:
    host = host_of(f"{AMX}.txt", memory_bytes=2**32, machine_memory_bytes=memory)
    assert identity(host)["memory_gib"] == gib


def install_lscpu(directory: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "lscpu").write_text(f"#!/bin/sh\n{body}\n")
    (directory / "lscpu").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_a_machine_without_lscpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessFault, match=r"^lscpu cannot be run: .*No such file or directory: 'lscpu'\.") as caught:
        detect()
    assert caught.value.hint == "Install util-linux, which has lscpu."


def test_an_lscpu_that_fails_is_told_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_lscpu(tmp_path, "echo 'lscpu: unrecognized option: p' >&2; exit 1", monkeypatch)
    with pytest.raises(HarnessFault) as caught:
        detect()
    assert caught.value.message == "`lscpu` ended with 1 and said: lscpu: unrecognized option: p."


def test_an_lscpu_that_knows_no_json_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "summary").write_text(recorded(OLD))
    body = f"""case "$1" in
      -p=*) i=0; while [ $i -lt 128 ]; do echo "$i,$i,$((i / 16)),$((i / 16))"; i=$((i + 1)); done ;;
      "") cat '{tmp_path}/summary' ;;
      *) exit 1 ;;
    esac"""
    install_lscpu(tmp_path, body, monkeypatch)
    host = detect()
    assert (host.sockets, host.cores_per_socket, host.nodes) == (8, 16, tuple(range(8)))
    assert host.cpus == host_of(OLD).cpus


def test_lscpu_is_asked_in_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "summary").write_text(recorded(f"{AMX}.txt"))
    english = f"""[ "$LC_ALL" = C ] || exit 7
    case "$1" in -p=*) printf '0,0,0,0\\n1,1,0,0\\n' ;; *) cat '{tmp_path}/summary' ;; esac"""
    install_lscpu(tmp_path, english, monkeypatch)
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert detect().model == 167
