from __future__ import annotations

from pathlib import Path

import pytest

from conformance.hardware.cgroup import Limits, limits

GIB = 2**30
NONE = Limits(None, None, None)
V1_UNLIMITED = "9223372036854771712"


def mounted(root: Path, files: dict[str, str]) -> Path:
    """Lay out files as a cgroup file system has them."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        pytest.param("/", {}, NONE, id="root-without-limits"),
        pytest.param("/", {"cpu.max": "150000 100000"}, Limits(None, 1.5, None), id="container-sees-itself-as-root"),
        pytest.param("/a", {"a/cpu.max": "max 100000"}, NONE, id="max-is-no-quota"),
        pytest.param("/a", {"a/memory.max": "max"}, NONE, id="max-is-no-memory-limit"),
        pytest.param("/a", {"a/memory.max": str(4 * GIB)}, Limits(None, None, 4 * GIB), id="memory"),
        pytest.param("/a", {"a/cpuset.cpus.effective": "0-1,4"}, Limits((0, 1, 4), None, None), id="cpuset"),
        pytest.param(
            "/a/b/c",
            {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "800000 100000"},
            Limits(None, 2.0, None),
            id="a-parent's-quota-is-tighter",
        ),
        pytest.param(
            "/a/b", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "50000 100000"}, Limits(None, 0.5, None),
            id="the-child's-quota-is-tighter",
        ),
        pytest.param(
            "/a/b", {"a/memory.max": str(2 * GIB), "a/b/memory.max": str(8 * GIB)}, Limits(None, None, 2 * GIB),
            id="a-parent's-memory-is-tighter",
        ),
        pytest.param(
            "/a/b", {"cpuset.cpus.effective": "0-7", "a/b/cpuset.cpus.effective": "2-3"}, Limits((2, 3), None, None),
            id="the-nearest-cpuset-counts",
        ),
        pytest.param(
            "/a/b", {"cpuset.cpus.effective": "0-7", "a/cpuset.cpus.effective": "4-5"}, Limits((4, 5), None, None),
            id="a-child-without-the-controller-has-its-parent's-cpuset",
        ),
        pytest.param(
            "/user.slice/gone", {"user.slice/cpu.max": "100000 50000"}, Limits(None, 2.0, None), id="group-not-mounted"
        ),
        pytest.param("/../../other", {"cpu.max": "300000 100000"}, Limits(None, 3.0, None), id="outside-the-namespace"),
        pytest.param("/a:b", {"a:b/cpu.max": "100000 100000"}, Limits(None, 1.0, None), id="colon-in-the-name"),
        pytest.param("/a", {"unified/a/memory.max": "1024"}, Limits(None, None, 1024), id="hybrid-mount"),
    ],
)  # fmt: skip
def test_version_2_is_read(tmp_path: Path, group: str, files: dict[str, str], expected: Limits) -> None:
    assert limits(f"0::{group}\n", mounted(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        pytest.param(
            "2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, NONE, id="no-quota"
        ),
        pytest.param("2:memory:/\n", {"memory/memory.limit_in_bytes": V1_UNLIMITED}, NONE, id="no-memory-limit"),
        pytest.param(
            "2:cpu,cpuacct:/docker/1f\n",
            {"cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "250000", "cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000"},
            Limits(None, 2.5, None),
            id="two-controllers-in-one-mount",
        ),
        pytest.param(
            "2:cpuacct,cpu:/\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            Limits(None, 0.5, None), id="two-controllers-mounted-by-one's-name",
        ),
        pytest.param(
            "2:cpu:/docker/1f\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"},
            Limits(None, 4.0, None), id="container-sees-itself-as-root",
        ),
        pytest.param(
            "2:cpu:/a/b\n",
            {
                "cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000",
                "cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000",
            },
            Limits(None, 1.0, None), id="a-parent's-quota-counts",
        ),
        pytest.param(
            "2:memory:/a/b\n",
            {"memory/a/memory.limit_in_bytes": "4096", "memory/a/b/memory.limit_in_bytes": V1_UNLIMITED},
            Limits(None, None, 4096), id="a-parent's-memory-counts",
        ),
        pytest.param(
            "3:cpuset:/a\n", {"cpuset/a/cpuset.cpus": "0-7", "cpuset/a/cpuset.effective_cpus": "0-3"},
            Limits((0, 1, 2, 3), None, None), id="effective-cpus-come-first",
        ),
        pytest.param("3:cpuset:/a\n", {"cpuset/a/cpuset.cpus": "6-7"}, Limits((6, 7), None, None), id="older-kernel"),
        pytest.param(
            "3:cpuset:/a\n", {"cpuset/cpuset.cpus": "0-1", "cpuset/a/cpuset.cpus": ""}, Limits((0, 1), None, None),
            id="a-group-without-cpus-of-its-own",
        ),
        pytest.param(
            "4:memory:/m\n3:cpuset:/s\n2:cpu:/c\n1:name=systemd:/\n0::/\n",
            {
                "memory/m/memory.limit_in_bytes": str(GIB), "cpuset/s/cpuset.cpus": "1",
                "cpu/c/cpu.cfs_quota_us": "20000", "cpu/c/cpu.cfs_period_us": "10000", "unified/cgroup.procs": "1",
            },
            Limits((1,), 2.0, GIB), id="each-controller-has-a-group-of-its-own",
        ),
        pytest.param(
            "2:memory:/\n0::/a\n", {"memory/memory.limit_in_bytes": V1_UNLIMITED, "unified/a/cpu.max": "70000 100000"},
            Limits(None, 0.7, None), id="both-versions-side-by-side",
        ),
    ],
)  # fmt: skip
def test_version_1_is_read(tmp_path: Path, groups: str, files: dict[str, str], expected: Limits) -> None:
    assert limits(groups, mounted(tmp_path, files)) == expected


def test_nothing_is_read_outside_of_the_mount(tmp_path: Path) -> None:
    mounted(tmp_path, {"cpu.max": "100000 100000", "other/cpu.max": "100000 100000", "mount/cpu.max": "max 100000"})
    assert limits("0::/../other\n", tmp_path / "mount") == NONE


@pytest.mark.parametrize("groups", ["", "\n", "nothing of it\n", "0::/\n", "3:cpuset:/\n"])
def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path, groups: str) -> None:
    assert limits(groups, tmp_path / "absent") == NONE


def test_this_machine_is_read() -> None:
    found = limits(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))
    assert found.quota_cpus is None or found.quota_cpus > 0
    assert found.memory_bytes is None or found.memory_bytes > 2**20
    assert found.cpus is None or found.cpus
