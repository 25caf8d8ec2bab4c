"""Ranks on two hosts: two network namespaces of this machine, each with a name and an address of its own.

All that they say to each other goes over one link, of which bytes can be counted and which can be cut. In place of
sshd, a few lines of shell enter the other host.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from ranks_sessions import SHORT, WITH_HOROVOD, small_stack
from session_examples import ROOT, Ended, command, environment

pytestmark = [
    pytest.mark.outside,
    pytest.mark.tensorflow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow in this interpreter"),
    *WITH_HOROVOD,
]
PATIENCE_S = 240.0  # for what takes seconds on a quiet machine
NETWORK = "10.77.0"
# Options may stand before and after the host, as ssh has them; a command follows, which does not get our environment.
SSH = """#!/bin/bash
options() { while [[ $1 == -* ]]; do [[ $1 == -[iop] ]] && shift; shift; done; rest=("$@"); }
options "$@"
host=${rest[0]}
options "${rest[@]:1}"
case $host in
nowhere) echo "ssh: Could not resolve hostname nowhere: Name or service not known" >&2; exit 255;;
mute) exit 255;;
esac
there='hostname "$0"; eval "$1"'
exec ip netns exec "$host" unshare --uts env -i PATH=/usr/sbin:/usr/bin:/bin bash -c "$there" "$host" "${rest[*]}"
"""


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=60, check=True).stdout


class Hosts:
    """Two hosts of which the first, where sessions run, reaches the second over its eth0."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.names = tuple(f"cf{os.getpid()}{letter}" for letter in "ab")
        (place / "bin").mkdir()
        self.ssh = place / "bin" / "ssh"
        self.ssh.write_text(SSH)
        self.ssh.chmod(0o755)

    def make(self, undo: ExitStack) -> None:
        hosts = "127.0.0.1 localhost\n"
        hosts += "".join(f"{NETWORK}.{number} {name}\n" for number, name in enumerate(self.names, 1))
        for name in self.names:
            ip("netns", "add", name)
            undo.callback(self.remove, name)
            etc = Path("/etc/netns") / name
            etc.mkdir(parents=True)
            undo.callback(subprocess.run, ["rmdir", "--ignore-fail-on-non-empty", etc.parent], check=False)
            undo.callback(shutil.rmtree, etc)
            (etc / "hosts").write_text(hosts)
        first, second = self.names
        ip("link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
        for number, name in enumerate(self.names, 1):
            ip("-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                ip("-n", name, "link", "set", link, "up")

    def on_first(self, *argv: str) -> list[str]:
        first = self.names[0]
        return ["ip", "netns", "exec", first, "unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', first, *argv]

    def cut(self) -> None:
        ip("-n", self.names[1], "link", "set", "eth0", "down")

    def mend(self) -> None:
        ip("-n", self.names[1], "link", "set", "eth0", "up")

    def sent(self) -> list[int]:
        """Return the bytes that each host has sent over the link."""
        told = [json.loads(ip("-n", name, "-s", "-j", "link", "show", "eth0"))[0] for name in self.names]
        return [each["stats64"]["tx"]["bytes"] for each in told]

    def processes(self) -> list[int]:
        return [int(pid) for name in self.names for pid in ip("netns", "pids", name).split()]

    def remove(self, name: str) -> None:
        for pid in ip("netns", "pids", name).split():
            subprocess.run(["kill", "-9", pid], capture_output=True)
        ip("netns", "delete", name)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("no ip (apt install iproute2)")
    with ExitStack() as undo:
        made = Hosts(tmp_path_factory.mktemp("hosts"))
        try:
            made.make(undo)
            subprocess.run(made.on_first("true"), check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', '') or error}")
        yield made


class Running(NamedTuple):
    """A session that runs on the first host."""

    process: subprocess.Popen[bytes]
    place: Path

    def ended(self) -> Ended:
        status = self.process.wait(PATIENCE_S)
        return Ended(status, (self.place / "out").read_text(errors="replace"), self.place / "runs")

    def steps(self) -> int:
        """Return how many steps of training were told so far."""
        found = 0
        for path in self.place.glob("runs/run-*/events/resnet*.jsonl"):
            events = [json.loads(line) for line in path.read_text().splitlines()]
            found = max([found, *(event["done"] for event in events if event.get("unit") == "steps")])
        return found


def begin(hosts: Hosts, launcher: str, others: Sequence[str], *more: str) -> Running:
    """Start a session that trains by a rank on the first host, and one on each of ``others``."""
    place = Path(tempfile.mkdtemp(prefix=f"{launcher}-", dir=hosts.place))
    names = ",".join(f"{name}:1" for name in (hosts.names[0], *others))
    network = "eth0" if launcher == "horovodrun" else f"{NETWORK}.0/24"
    argv = command(place, *SHORT, "--launcher", launcher, "--hosts", names, "--network-interface", network, "--stack",
                   small_stack(place), *more)  # fmt: skip
    changes = {"TF_CONFORMANCE_CACHE": str(hosts.place / "cache")}
    if launcher == "mpirun":
        changes["OMPI_MCA_plm_rsh_agent"] = str(hosts.ssh)
    else:
        changes["PATH"] = f"{hosts.ssh.parent}:{os.environ['PATH']}"
    with open(place / "out", "wb") as out:
        process = subprocess.Popen(
            hosts.on_first(*argv), cwd=ROOT, env=environment(place, **changes), stdout=out, stderr=out,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    return Running(process, place)


@pytest.mark.parametrize("launcher", ["mpirun", "horovodrun"])
def test_a_rank_on_each_host_trains_one_model_over_the_link(hosts: Hosts, launcher: str) -> None:
    before = hosts.sent()
    ended = begin(hosts, launcher, hosts.names[1:]).ended()
    (record,) = ended.run.records
    assert (ended.status, record.verdict) == (0, "unjudged"), ended.text
    assert record.metrics["weights_differ"] == 0 and "12 steps, ended by the steps." in record.notes
    told = [note.split(":")[0] for note in record.notes if note.startswith("Rank ")]
    assert told == [f"Rank {rank} on {name}" for rank, name in enumerate(hosts.names)]
    assert record.launched[0].hosts == hosts.names
    crossed = [after - sent for after, sent in zip(hosts.sent(), before, strict=True)]
    assert min(crossed) > 12 * 4 * 10_000, crossed  # the gradients of 12 steps, of more than 10,000 weights in float32
    assert hosts.processes() == []


@pytest.mark.parametrize(
    ("launcher", "host", "told"),
    [
        ("mpirun", "nowhere", ": ssh: Could not resolve hostname nowhere: Name or service not known."),
        ("mpirun", "mute", "."),
        ("horovodrun", "nowhere", ": ssh: Could not resolve hostname nowhere: Name or service not known."),
    ],
)
def test_a_host_that_cannot_be_reached_is_named_at_once(hosts: Hosts, launcher: str, host: str, told: str) -> None:
    begun = time.monotonic()
    ended = begin(hosts, launcher, [host]).ended()
    (record,) = ended.run.records
    assert (ended.status, record.verdict) == (1, "invalid"), ended.text
    assert record.reason.startswith(f"No rank could be started on {host}{told}"), record.reason
    assert time.monotonic() - begun < 60 and hosts.processes() == []


class Cut(NamedTuple):
    ended: dict[str, Ended]
    took_s: dict[str, float]
    left: list[int]


@pytest.fixture(scope="module")
def cut(hosts: Hosts) -> Iterator[Cut]:
    """What came of two sessions, one by each launcher, whose link is cut in the middle of their steps."""
    long = ("--train-epochs", "5000", "--max-train-steps", "400000", "--epochs-between-evals", "5000")
    running = {launcher: begin(hosts, launcher, hosts.names[1:], *long) for launcher in ("mpirun", "horovodrun")}
    deadline = time.monotonic() + PATIENCE_S
    while min(each.steps() for each in running.values()) < 5 and time.monotonic() < deadline:
        assert all(each.process.poll() is None for each in running.values())
        time.sleep(0.2)
    hosts.cut()
    try:
        at_s, took_s = time.monotonic(), {}
        while len(took_s) < len(running) and time.monotonic() - at_s < PATIENCE_S:
            for launcher, each in running.items():
                if each.process.poll() is not None:
                    took_s.setdefault(launcher, time.monotonic() - at_s)
            time.sleep(0.1)
        left = hosts.processes()
        yield Cut({launcher: each.ended() for launcher, each in running.items()}, took_s, left)
    finally:
        hosts.mend()


@pytest.mark.parametrize("launcher", ["mpirun", "horovodrun"])
def test_a_link_that_goes_down_ends_the_run_and_the_host_is_named(cut: Cut, hosts: Hosts, launcher: str) -> None:
    first, second = hosts.names
    told = {
        "mpirun": f"Rank 1 of 2 on {second} went silent: mpirun lost its connection to that machine.",
        "horovodrun": f"The ranks on {first} and {second} lost each other: each ended because another did.",
    }
    (record,) = cut.ended[launcher].run.records
    assert (cut.ended[launcher].status, record.verdict) == (1, "invalid"), cut.ended[launcher].text
    assert record.reason.startswith(told[launcher]), record.reason
    assert cut.took_s[launcher] < 60, cut.took_s


def test_of_sessions_whose_link_went_down_no_process_is_left(cut: Cut) -> None:
    assert cut.left == []
