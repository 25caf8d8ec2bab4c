from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.errors import UsageError
from conformance.hardware.match import list_profiles, load_profile, profile_directory

SHIPPED = sorted(path.stem for path in profile_directory().glob("*.toml"))
HEAD = 'name = "mine"\ndescription = "made up"\n'


def write(directory: Path, text: str, name: str = "mine") -> Path:
    path = directory / f"{name}.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_is_read_by_its_name(name: str) -> None:
    profile = load_profile(name, profile_directory())
    assert profile.name == name
    assert profile.description and not profile.description.endswith(".")


def test_the_list_holds_every_file_in_order() -> None:
    assert [profile.name for profile in list_profiles(profile_directory())] == SHIPPED
    assert {"generic-cpu", "small-cpu", "xeon-2s", "xeon-8s"} <= set(SHIPPED)


def test_the_generic_profile_asks_nothing_but_the_architecture() -> None:
    machine = load_profile("generic-cpu", profile_directory()).machine
    assert (machine.architecture, machine.sockets, machine.cores_per_socket) == ("x86_64", None, None)
    assert (machine.min_cores, machine.max_cores, machine.flags) == (None, None, ())


@pytest.mark.parametrize(("name", "sockets"), [("xeon-8s", 8), ("xeon-2s", 2)])
def test_a_xeon_is_driven_by_the_socket(name: str, sockets: int) -> None:
    profile = load_profile(name, profile_directory())
    assert (profile.machine.sockets, profile.machine.cores_per_socket, profile.drive.unit) == (sockets, 28, "socket")


@pytest.mark.parametrize(
    ("name", "kind", "count", "servers", "launcher", "port"),
    [
        ("gaudi-1", "gaudi", 1, 1, None, None),
        ("gaudi-8", "gaudi", 8, 1, "mpirun", None),
        ("gaudi-64", "gaudi", 8, 8, "mpirun", 3022),
        ("gaudi2-1", "gaudi2", 1, 1, None, None),
        ("gaudi2-8", "gaudi2", 8, 1, "mpirun", None),
    ],
)
def test_a_gaudi_server_is_asked_for_its_accelerators_and_not_for_its_cpus(
    name: str, kind: str, count: int, servers: int, launcher: str | None, port: int | None
) -> None:
    profile = load_profile(name, profile_directory())
    machine, drive = profile.machine, profile.drive
    assert (machine.accelerator, machine.accelerators, machine.servers) == (kind, count, servers)
    assert (machine.sockets, machine.cores_per_socket, machine.min_cores, machine.flags) == (None, None, None, ())
    assert (drive.launcher, drive.ssh_port, drive.hosts) == (launcher, port, ())
    assert (drive.batch_size, drive.train_batch_size) == (None, None)


def test_a_profile_names_hosts_interface_and_port(tmp_path: Path) -> None:
    drive = 'launcher = "mpirun"\nhosts = ["h1:8", "10.0.0.2:8"]\nnetwork_interface = "ib0"\nssh_port = 3022\n'
    path = write(tmp_path, f"{HEAD}[machine]\nservers = 2\n[drive]\n{drive}")
    found = load_profile(str(path), tmp_path).drive
    assert (found.hosts, found.network_interface, found.ssh_port) == (("h1:8", "10.0.0.2:8"), "ib0", 3022)


def test_a_profile_may_be_given_by_its_path(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "[machine]\nsockets = 4\n")
    assert load_profile(str(path), profile_directory()).machine.sockets == 4


def test_what_a_profile_does_not_say_has_a_default(tmp_path: Path) -> None:
    profile = load_profile(str(write(tmp_path, HEAD + "[machine]\n")), tmp_path)
    assert (profile.drive.unit, profile.drive.batch_size, profile.drive.min_timed_s) == ("machine", None, 5.0)
    assert (profile.counts.max_steal_share, profile.counts.max_spread) == (0.02, 0.10)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("xeon-8", " (did you mean 'xeon-8s'?)"),
        ("generic", " (did you mean 'generic-cpu'?)"),
        ("tpu", ""),
        ("", ""),
    ],
)
def test_an_unknown_profile_is_told_with_the_known_ones(name: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_profile(name, profile_directory())
    known = ", ".join(sorted(["auto", *SHIPPED]))
    assert caught.value.message == f"Unknown hardware profile {name!r}{meant}; known: {known}."
    assert caught.value.hint == "See `conformance profiles list`, or give the path of a .toml file."


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_profile(str(tmp_path / "no.toml"), tmp_path)
    assert caught.value.message == f"There is no file '{tmp_path / 'no.toml'}'."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            HEAD + "[machine]\nsocket = 2\n",
            "mine.toml, machine: Unknown key 'socket' (did you mean 'sockets'?); "
            "known: accelerator, accelerators, architecture, cores_per_socket, flags, max_cores, min_cores, servers, "
            "sockets.",
            id="unknown-key",
        ),
        pytest.param(
            HEAD + "[machine]\n[counting]\n",
            "mine.toml: Unknown key 'counting' (did you mean 'counts'?); "
            "known: counts, description, drive, machine, name, plan.",
            id="unknown-table",
        ),
        pytest.param(HEAD, "mine.toml: Object missing required field `machine`.", id="no-machine"),
        pytest.param(
            HEAD + "[machine]\nsockets = 0\n",
            "mine.toml, machine.sockets = 0: Expected `int` >= 1.",
            id="no-sockets",
        ),
        pytest.param(
            HEAD + "[machine]\nsockets = 2.5\n",
            "mine.toml, machine.sockets = 2.5: Expected `int | null`, got `float`.",
            id="half-a-socket",
        ),
        pytest.param(
            HEAD + '[machine]\narchitecture = "arm"\n',
            "mine.toml, machine.architecture = 'arm': Invalid enum value 'arm'.",
            id="architecture",
        ),
        pytest.param(
            HEAD + '[machine]\n[drive]\nunit = "core"\n',
            "mine.toml, drive.unit = 'core': Invalid enum value 'core'.",
            id="unit",
        ),
        pytest.param(
            HEAD + "[machine]\n[counts]\nmax_spread = 10\n",
            "mine.toml, counts.max_spread = 10: Expected `float` <= 1.0.",
            id="percent-for-share",
        ),
        pytest.param(
            HEAD + "[machine]\nmin_cores = 9\nmax_cores = 8\n",
            "mine.toml: min_cores 9 is above max_cores 8.",
            id="empty-range",
        ),
        pytest.param(
            HEAD + "[machine]\nsockets = 2\ncores_per_socket = 28\nmin_cores = 57\n",
            "mine.toml: sockets 2 * cores_per_socket 28 = 56 is below min_cores 57.",
            id="smaller-than-its-range",
        ),
        pytest.param(
            HEAD + "[machine]\nsockets = 2\ncores_per_socket = 28\nmax_cores = 55\n",
            "mine.toml: sockets 2 * cores_per_socket 28 = 56 is above max_cores 55.",
            id="larger-than-its-range",
        ),
        pytest.param(
            HEAD + "[machine]\nsockets = 9\nmax_cores = 8\n",
            "mine.toml: sockets 9 is above max_cores 8.",
            id="more-sockets-than-cores",
        ),
        pytest.param(
            HEAD + "[machine]\ncores_per_socket = 9\nmax_cores = 8\n",
            "mine.toml: cores_per_socket 9 is above max_cores 8.",
            id="a-socket-larger-than-the-machine",
        ),
        pytest.param(
            HEAD + '[machine]\nflags = ["avx512_bf16", "bf16"]\n',
            "mine.toml: flag 'bf16' is none of those that are detected "
            r"(sse4_[12]|avx.*|fma|f16c|amx_.*|bmi[12]|vaes|gfni).",
            id="a-flag-that-no-machine-has",
        ),
        pytest.param(
            HEAD + '[machine]\naccelerator = "gaudi3"\naccelerators = 8\n',
            "mine.toml, machine.accelerator = 'gaudi3': Invalid enum value 'gaudi3'.",
            id="an-accelerator-that-is-not-known",
        ),
        pytest.param(
            HEAD + '[machine]\naccelerator = "gaudi"\n',
            "mine.toml: accelerator 'gaudi' is given, and accelerators is not.",
            id="no-number-of-accelerators",
        ),
        pytest.param(
            HEAD + "[machine]\naccelerators = 8\n",
            "mine.toml: accelerators 8 is given, and accelerator is not.",
            id="no-kind-of-accelerators",
        ),
        pytest.param(
            HEAD + "[machine]\nservers = 2\n", "mine.toml: servers 2 need a launcher.", id="servers-without-launcher"
        ),
        pytest.param(
            HEAD + '[machine]\nservers = 2\n[drive]\nlauncher = "mpirun"\nhosts = ["h1:8"]\n',
            "mine.toml: hosts names 1, and servers is 2.",
            id="fewer-hosts-than-servers",
        ),
        pytest.param(
            HEAD + '[machine]\nservers = 2\n[drive]\nlauncher = "mpirun"\nhosts = ["h1:8", "h1:4"]\n',
            "mine.toml: hosts names 'h1' twice.",
            id="a-host-twice",
        ),
        pytest.param(
            HEAD + '[machine]\n[drive]\nhosts = ["h1"]\n',
            "mine.toml, drive.hosts[0] = 'h1': Expected `str` matching regex "
            "'^[A-Za-z0-9][A-Za-z0-9._-]*:[1-9][0-9]*$'.",
            id="a-host-without-slots",
        ),
        pytest.param(
            HEAD + "[machine]\n[drive]\nssh_port = 70000\n",
            "mine.toml, drive.ssh_port = 70000: Expected `int` <= 65535.",
            id="a-port-that-is-none",
        ),
        pytest.param(
            HEAD + "[machine]\n[plan]\nsockets = 2\n",
            "mine.toml, plan: Object missing required field `cores_per_socket`.",
            id="half-a-plan",
        ),
        pytest.param(
            HEAD.replace("mine", "other") + "[machine]\n",
            "mine.toml: name is 'other'; it must equal the file's name, 'mine'.",
            id="another-name",
        ),
    ],
)
def test_a_wrong_profile_is_told_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_profile("mine", tmp_path)
    assert (caught.value.message, caught.value.hint) == (message, f"Correct {path}.")


@pytest.mark.parametrize(
    "demands",
    [
        "sockets = 2\ncores_per_socket = 28\nmin_cores = 56\nmax_cores = 56",
        "sockets = 2\nmin_cores = 56",
        "cores_per_socket = 28\nmin_cores = 56",
    ],
    ids=["equal", "cores-not-told", "sockets-not-told"],
)
def test_demands_that_a_machine_can_meet_are_no_contradiction(tmp_path: Path, demands: str) -> None:
    assert load_profile(str(write(tmp_path, f"{HEAD}[machine]\n{demands}\n")), tmp_path).name == "mine"


def test_no_file_takes_the_name_of_the_detected_machine(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD.replace("mine", "auto") + "[machine]\n", name="auto")
    for read in (lambda: list_profiles(tmp_path), lambda: load_profile(str(path), tmp_path)):
        with pytest.raises(UsageError) as caught:
            read()
        assert caught.value.message == "auto.toml: the name 'auto' is kept for the machine that is detected."
        assert caught.value.hint == f"Rename {path}, and the name in it."


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["empty", "absent"])
def test_a_package_without_a_checkout_has_no_profiles(tmp_path: Path, make: Callable[[Path], None]) -> None:
    directory = tmp_path / "hardware_profiles"
    make(directory)
    for read in (lambda: list_profiles(directory), lambda: load_profile("xeon-8s", directory)):
        with pytest.raises(UsageError) as caught:
            read()
        assert caught.value.message == f"There is no hardware profile in {str(directory)!r}."
        hint = "Profiles are files beside the package: clone the repository and run `pip install -e .` in it."
        assert caught.value.hint == hint


def test_one_wrong_file_spoils_the_list(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "[machine]\n")
    write(tmp_path, HEAD + "[machine]\n", name="other")
    with pytest.raises(UsageError, match=r"^other\.toml: name is 'mine'; it must equal the file's name, 'other'\."):
        list_profiles(tmp_path)
