from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from launch_examples import xeon

from conformance.errors import HardwareMismatch, UsageError
from conformance.hardware.host import Host
from conformance.hardware.match import (
    AUTO,
    choose,
    differences,
    load_profile,
    planned_host,
    profile_directory,
    require,
    why_not,
)
from conformance.hardware.profile import Drive, Machine, Profile

SHIPPED = profile_directory()
MLPERF = ("avx512_bf16", "avx512_vnni")


def machine(sockets: int, cores: int, flags: tuple[str, ...] = MLPERF, **more: Any) -> Host:
    return msgspec.structs.replace(xeon(sockets, cores, **more), flags=flags)


def profile(name: str = "mine", **asked: Any) -> Profile:
    return Profile(name=name, description="made up", machine=Machine(**asked))


def write_profiles(directory: Path, **machines: str) -> Path:
    for name, table in machines.items():
        text = f'name = "{name}"\ndescription = "made up"\n[machine]\n{table}\n'
        (directory / f"{name}.toml").write_text(text)
    return directory


@pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param(machine(8, 28), "xeon-8s", id="8x28"),
        pytest.param(machine(8, 28, threads=1), "xeon-8s", id="8x28-without-smt"),
        pytest.param(machine(8, 28, nodes_per_socket=2), "xeon-8s", id="8x28-with-sub-numa-clusters"),
        pytest.param(machine(8, 28, flags=("avx512_vnni",)), "generic-cpu", id="8x28-without-bf16"),
        pytest.param(machine(2, 28), "xeon-2s", id="2x28"),
        pytest.param(machine(2, 28, flags=()), "xeon-2s", id="2x28-without-flags"),
        pytest.param(machine(2, 28, allowed=range(4)), "small-cpu", id="2x28-of-which-4-are-left"),
        pytest.param(machine(2, 28, quota_cpus=4.0), "small-cpu", id="2x28-with-a-quota-of-4"),
        pytest.param(machine(2, 28, allowed=range(9)), "generic-cpu", id="2x28-of-which-9-are-left"),
        pytest.param(machine(2, 28, allowed=range(28, 56)), "xeon-2s", id="2x28-of-which-a-socket-is-left"),
        pytest.param(machine(8, 28, allowed=range(28, 84)), "xeon-8s", id="8x28-of-which-2-sockets-are-left"),
        pytest.param(machine(8, 28, quota_cpus=28.0), "xeon-8s", id="8x28-with-a-quota-of-a-socket"),
        pytest.param(machine(8, 28, allowed=range(14, 42)), "generic-cpu", id="8x28-of-which-2-halves-are-left"),
        pytest.param(machine(2, 40), "generic-cpu", id="2x40"),
        pytest.param(machine(1, 9), "generic-cpu", id="1x9"),
        pytest.param(machine(1, 8), "small-cpu", id="1x8"),
        pytest.param(machine(1, 2), "small-cpu", id="1x2"),
        pytest.param(machine(2, 4), "small-cpu", id="2x4"),
    ],
)
def test_auto_takes_the_profile_that_asks_most_of_a_machine(host: Host, name: str) -> None:
    chosen = choose(AUTO, host, SHIPPED)
    assert (chosen.profile.name, chosen.differences) == (name, ())


@pytest.mark.parametrize(
    ("asked", "host", "said"),
    [
        pytest.param({}, machine(1, 1), [], id="nothing-asked"),
        pytest.param({"sockets": 8}, machine(2, 28), ["sockets: found 2, required 8"], id="sockets"),
        pytest.param(
            {"cores_per_socket": 28}, machine(8, 24), ["cores a socket: found 24, required 28"], id="cores-a-socket"
        ),
        pytest.param({"min_cores": 57}, machine(2, 28), ["usable cores: found 56, required at least 57"], id="min-1"),
        pytest.param({"min_cores": 56}, machine(2, 28), [], id="min"),
        pytest.param({"max_cores": 56}, machine(2, 28), [], id="max"),
        pytest.param({"max_cores": 55}, machine(2, 28), ["usable cores: found 56, required at most 55"], id="max+1"),
        pytest.param(
            {"min_cores": 8}, machine(2, 28, allowed=range(7)), ["usable cores: found 7, required at least 8"],
            id="min-by-affinity",
        ),
        pytest.param(
            {"min_cores": 4}, machine(2, 28, quota_cpus=3.5), ["usable cores: found 3, required at least 4"],
            id="min-by-quota",
        ),
        pytest.param({"max_cores": 3}, machine(2, 28, quota_cpus=3.5), [], id="max-by-quota"),
        pytest.param(
            {"flags": ("amx_bf16", "avx512_vnni", "amx_int8")},
            machine(2, 28),
            ["CPU flags: amx_bf16, amx_int8 not found, required amx_bf16, avx512_vnni, amx_int8"],
            id="flags",
        ),
        pytest.param(
            {"sockets": 8, "cores_per_socket": 28, "flags": ("amx_bf16",)},
            machine(2, 40),
            [
                "sockets: found 2, required 8",
                "cores a socket: found 40, required 28",
                "CPU flags: amx_bf16 not found, required amx_bf16",
            ],
            id="everything",
        ),
        pytest.param(
            {},
            msgspec.structs.replace(machine(1, 64), architecture="aarch64"),
            ["architecture: found aarch64, required x86_64"],
            id="architecture",
        ),
        pytest.param(
            {"sockets": 2}, machine(2, 28, allowed=range(4)), ["usable cores: found 4, required 56"], id="affinity"
        ),
        pytest.param(
            {"cores_per_socket": 28}, machine(2, 28, quota_cpus=3.5), ["usable cores: found 3, required 56"], id="quota"
        ),
        pytest.param({"sockets": 2}, machine(2, 28, quota_cpus=56.0), [], id="quota-of-every-core"),
        pytest.param({"sockets": 2}, machine(2, 28, allowed=range(56)), [], id="one-thread-of-every-core"),
        pytest.param({"max_cores": 56}, machine(2, 28, allowed=range(4)), [], id="affinity-where-no-size-is-given"),
    ],
)  # fmt: skip
def test_each_difference_tells_what_was_found_and_required(asked: dict[str, Any], host: Host, said: list[str]) -> None:
    assert list(differences(profile(**asked), host)) == said


@pytest.mark.parametrize(
    ("host", "said"),
    [
        pytest.param(machine(2, 28, allowed=range(28)), [], id="a-socket"),
        pytest.param(machine(2, 28, allowed=range(20, 56)), [], id="a-socket-and-more"),
        pytest.param(machine(2, 28, quota_cpus=28.5), [], id="quota-of-a-socket"),
        pytest.param(
            machine(2, 28, allowed=range(27)),
            ["usable cores on one socket: found 27, required 28"], id="a-socket-less-a-core",
        ),
        pytest.param(
            machine(2, 28, allowed=range(14, 44)),
            ["usable cores on one socket: found 16, required 28"], id="parts-of-two-sockets",
        ),
        pytest.param(
            machine(2, 28, quota_cpus=4.0), ["usable cores on one socket: found 4, required 28"], id="a-small-quota"
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("asked", [{"sockets": 2}, {"cores_per_socket": 28}, {"sockets": 2, "cores_per_socket": 28}])
def test_a_profile_driven_by_the_socket_needs_one_whole_socket(
    asked: dict[str, int], host: Host, said: list[str]
) -> None:
    wanted = Profile(name="mine", description="made up", machine=Machine(**asked), drive=Drive(unit="socket"))
    assert list(differences(wanted, host)) == said


def test_a_profile_that_is_named_is_taken_with_its_differences() -> None:
    chosen = choose("xeon-8s", machine(8, 24), SHIPPED)
    assert chosen.profile == load_profile("xeon-8s", SHIPPED)
    assert chosen.differences == ("cores a socket: found 24, required 28",)


def test_a_machine_that_is_not_the_profile_s_is_refused_with_every_difference() -> None:
    with pytest.raises(HardwareMismatch) as caught:
        require(profile("xeon-8s", sockets=8, cores_per_socket=28), machine(2, 40))
    assert caught.value.message == (
        "This machine is not 'xeon-8s': sockets: found 2, required 8; cores a socket: found 40, required 28."
    )
    assert caught.value.hint.startswith("Use --hw auto for this machine, --hw-mismatch=run to judge accuracy only")


def test_a_machine_is_refused_with_the_hint_of_who_asks() -> None:
    with pytest.raises(HardwareMismatch) as caught:
        require(profile(sockets=8), machine(2, 40), "Ask another.")
    assert caught.value.hint == "Ask another."


def test_a_machine_that_fits_is_not_refused() -> None:
    assert require(profile(sockets=2), machine(2, 28)) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("generic-cpu", "fits, but asks less of a machine than 'xeon-2s'"),
        ("small-cpu", "usable cores: found 56, required at most 8"),
        ("xeon-8s", "sockets: found 2, required 8"),
    ],
)
def test_every_other_profile_has_a_reason(name: str, reason: str) -> None:
    host = machine(2, 28)
    assert why_not(load_profile(name, SHIPPED), choose(AUTO, host, SHIPPED).profile, host) == reason


def test_auto_takes_none_of_two_that_ask_as_much(tmp_path: Path) -> None:
    directory = write_profiles(tmp_path, one="sockets = 2", other="cores_per_socket = 28")
    chosen = choose(AUTO, machine(2, 28), directory)
    assert (chosen.profile.name, chosen.profile.machine, chosen.differences) == (AUTO, Machine(), ())
    reason = "fits, but another profile that asks as much of a machine fits too"
    assert why_not(load_profile("one", directory), chosen.profile, machine(2, 28)) == reason


def test_auto_takes_a_machine_as_it_is_where_no_profile_fits(tmp_path: Path) -> None:
    chosen = choose(AUTO, machine(1, 2), write_profiles(tmp_path, big="min_cores = 64"))
    assert (chosen.profile.name, chosen.profile.description, chosen.differences) == (AUTO, "this machine as it is", ())


def test_auto_takes_nothing_where_there_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        choose(AUTO, machine(1, 2), tmp_path / "hardware_profiles")
    assert caught.value.message == f"There is no hardware profile in '{tmp_path / 'hardware_profiles'}'."
    assert caught.value.hint.endswith("clone the repository and run `pip install -e .` in it.")


def test_auto_does_not_hide_that_an_architecture_fits_nothing() -> None:
    arm = msgspec.structs.replace(machine(1, 64), architecture="aarch64")
    assert choose(AUTO, arm, SHIPPED).differences == ("architecture: found aarch64, required x86_64",)


@pytest.mark.parametrize(("name", "sockets"), [("xeon-8s", 8), ("xeon-2s", 2)])
def test_a_planned_machine_fits_its_profile(name: str, sockets: int) -> None:
    wanted = load_profile(name, SHIPPED)
    planned = planned_host(wanted, machine(1, 2))
    assert differences(wanted, planned) == ()
    assert planned.nodes == tuple(range(sockets))
    assert [len(planned.usable_cpus(socket)) for socket in range(sockets)] == [28] * sockets
    assert re.search(re.escape(repr(name)), planned.model_name)


@pytest.mark.parametrize("name", ["generic-cpu", "small-cpu"])
def test_a_profile_of_no_certain_size_is_planned_on_this_machine(name: str) -> None:
    here = machine(1, 2)
    assert planned_host(load_profile(name, SHIPPED), here) is here
