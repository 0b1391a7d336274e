"""How many processors a container grants, read from trees of files as Linux has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_runtime.kernels.cores import cpu_quota, physical_cores, processors

V2 = "31 23 0:28 {place} {at} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {place} {at} rw - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


def tree(root: Path, own: str, mounts: str, **files: str) -> float | None:
    """The quota, where /proc/self says this of the process, and these files (/ as __) lie under /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    (root / "proc/self/mountinfo").write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mounts}\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpu_quota(root)


def in_v2(root: Path, group: str, place: str = "/", **files: str) -> float | None:
    files = {name.replace("max", "cpu.max"): text for name, text in files.items()}
    return tree(root, f"0::{group}\n", V2.format(place=place, at="/sys/fs/cgroup"), **files)


def test_a_limit_on_the_group_itself_or_above(tmp_path: Path) -> None:
    own = "/system.slice/x.service"
    assert in_v2(tmp_path / "1", own, **{"system.slice__max": "max 100000"}) is None
    slices = {"system.slice__x.service__max": "150000 100000"}
    assert in_v2(tmp_path / "2", own, **slices) == 1.5
    assert in_v2(tmp_path / "3", own, **slices, **{"system.slice__max": "50000 100000"}) == 0.5
    assert in_v2(tmp_path / "4", own, **{"system.slice__max": "400000 100000"}) == 4
    assert in_v2(tmp_path / "5", own, **{"other.slice__max": "10000 100000"}) is None
    assert in_v2(tmp_path / "6", "/", max="200000 100000") == 2


def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    # without a namespace of its own, the process's path is the host's, and so is what is mounted
    assert in_v2(tmp_path / "1", "/docker/abc", "/docker/abc", max="300000 100000") == 3
    assert in_v2(tmp_path / "2", "/docker/abc/inner", "/docker/abc", max="300000 100000", inner__max="1 2") == 0.5
    # a path that lies outside of what is mounted
    assert in_v2(tmp_path / "3", "/../other", "/", max="300000 100000") == 3


def test_version_1(tmp_path: Path) -> None:
    own, at = "3:cpuset:/\n2:cpu,cpuacct:/a/b\n1:memory:/z\n", "/sys/fs/cgroup/cpu,cpuacct"
    files = {
        f"cpu,cpuacct__{group}cpu.cfs_{name}_us": text
        for group, quota in (("", "-1\n"), ("a__", "250000\n"), ("a__b__", "-1\n"))
        for name, text in (("quota", quota), ("period", "100000\n"))
    }
    assert tree(tmp_path, own, f"{V1.format(place='/', at=at)}\n{MEMORY}", **files) == 2.5


def test_both_versions_at_once(tmp_path: Path) -> None:
    mounts = f"{V1.format(place='/', at='/sys/fs/cgroup/cpu')}\n{V2.format(place='/', at='/sys/fs/cgroup/unified')}"
    files = {"cpu__cpu.cfs_quota_us": "700000", "cpu__cpu.cfs_period_us": "100000", "unified__x__cpu.max": "max 100000"}
    assert tree(tmp_path, "1:cpu:/\n0::/x\n", mounts, **files) == 7


@pytest.mark.parametrize("text", ["", "max", "0 0", "x y", "1000", "-5 100000"])
def test_files_that_say_nothing(tmp_path: Path, text: str) -> None:
    assert in_v2(tmp_path, "/", max=text) is None


def test_mounts_with_blanks_in_their_names(tmp_path: Path) -> None:
    mount = V2.format(place="/", at=r"/sys/fs/cgroup/a\040b")
    assert tree(tmp_path, "0::/\n", mount, **{"a b__cpu.max": "100000 50000"}) == 2


def test_no_proc(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


def test_this_machine() -> None:
    assert 1 <= physical_cores() <= processors()
