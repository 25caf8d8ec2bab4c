"""An HPU that is wanted: what is missing is one sentence, nothing runs on a CPU instead, and what runs is placed.

No HPU was at hand. The habana_frameworks here are stand-ins, for each way in which loading the real module can end;
the real packages are tried in test_habana_stack.py. A second CPU device stands in for the HPU where graphs are placed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from conformance.cases import Case
from conformance.errors import CannotRun, UsageError
from conformance.fixtures import device as host_side
from conformance.fixtures.device import Hpu, notes_of_placement, refuse_without_hpu, require_device, tried
from conformance.fixtures.options import Options
from conformance.hardware.detect import detect
from conformance.hardware.host import Fault
from conformance.stacks import Stack
from conformance.subject import device
from conformance.subject.device import Places, nodes
from conformance.wire import Refused

ROOT = Path(__file__).parents[1]
HABANA = {"tensorflow-cpu": "2.9.1", "habana-tensorflow": "1.6.1.92"}
# What the real module prints before it aborts: see test_habana_stack.py.
ABORTS = """
def load_habana_module():
    import os, sys
    print("ERROR: pid = 1 at /npu-stack/synapse_shim/synapse_api_shim.cpp:31", file=sys.stderr)
    print("terminate called without an active exception", file=sys.stderr, flush=True)
    os.abort()
"""


def stand_in(place: Path, module: str) -> str:
    """Return an interpreter that sees, besides the subject's path, a habana_frameworks with this module."""
    package = place / "fake" / "habana_frameworks" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(module)
    python = place / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{place}/fake" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


def machine(place: Path, *names: str, driver: bool = True) -> dict[str, str]:
    """Return places with these nodes and, unless it is to be missing, the driver."""
    for name in names:
        (place / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "dev" / name).touch()
    if driver:
        (place / "sys/module/habanalabs").mkdir(parents=True)
    return {"dev": str(place / "dev"), "sys": str(place / "sys")}


def session(python: str = sys.executable, packages: dict[str, str] = HABANA, **options: Any) -> Any:
    stack = Stack(name="gaudi", python=python, python_version="3.10.13", packages=packages)
    return SimpleNamespace(stack=stack, host=detect(), show=lambda line: None, options=Options(**options), hpu=None)


def reason(place: Path, module: str, *names: str, driver: bool = True) -> CannotRun:
    found = tried(session(stand_in(place, module)), machine(place, *names, driver=driver))
    assert isinstance(found, CannotRun), found
    return found


def case(**changes: Any) -> Case:
    given = {"id": "row", "model": "resnext101_32x4d", "mode": "accuracy", "precision": "bf16", "dataset": "digits"}
    return Case(**{**given, "batch_size": 4, "source": "here", **changes})


def test_a_stack_without_the_package_is_told_without_starting_anything() -> None:
    found = tried(session("/nowhere/python", {"tensorflow": "2.21.0"}))
    assert str(found) == (
        "An HPU needs habana-tensorflow, which stack 'gaudi' has not, and there is no device either: no hl-smi and no "
        "/dev/hl* or /dev/accel/accel*. Hint: Make one with `tox -e synapse161 --notest` and name it with "
        "--stack synapse161, or train on a CPU with --device cpu."
    )


def test_a_fault_of_the_devices_is_told_as_it_was_found() -> None:
    asked = session()
    fault = Fault(message="`hl-smi` did not answer within 10 s.", hint="See dmesg.")
    asked.host = msgspec.structs.replace(asked.host, accelerators_fault=fault)
    assert str(tried(asked)) == "`hl-smi` did not answer within 10 s. Hint: See dmesg."


def test_without_driver_and_device_the_driver_is_missing(tmp_path: Path) -> None:
    found = reason(tmp_path, ABORTS, "hl_controlD0", driver=False)
    assert (
        found.message == "The driver of HPUs, habanalabs, is not loaded on this machine, and no device node is there."
    )
    assert "--device cpu" in found.hint


def test_a_driver_without_a_device_misses_the_device(tmp_path: Path) -> None:
    found = reason(tmp_path, ABORTS, "hl_controlD0", "hl_x")
    dev = tmp_path / "dev"
    assert found.message == (
        f"The driver of HPUs is loaded, and there is no device: neither {dev}/hl0 nor {dev}/accel/accel0."
    )


def test_a_module_that_aborts_is_told_with_what_its_library_needs(tmp_path: Path) -> None:
    found = reason(tmp_path, ABORTS, "hl0")
    assert found.message == (
        "Habana's library aborted (SIGABRT) in load_habana_module() of stack 'gaudi', as it does where SynapseAI's "
        "libSynapse.so cannot be loaded or no device can be opened; its log says "
        "'ERROR: pid = 1 at /npu-stack/synapse_shim/synapse_api_shim.cpp:31'."
    )
    assert found.hint == (
        "Install SynapseAI of the release of habana-tensorflow, see `hl-smi` for devices that are free, "
        "or train on a CPU with --device cpu."
    )


def test_a_package_for_another_tensorflow_is_told_in_its_words(tmp_path: Path) -> None:
    found = reason(tmp_path, "raise ImportError('Found unsupported TF version: 2.21.0')", "accel/accel0")
    told = "habana-tensorflow of this stack cannot be imported: Found unsupported TF version: 2.21.0."
    assert found.message == told and "`tox -e synapse161`" in found.hint


def test_a_module_that_raises_is_told_with_its_error(tmp_path: Path) -> None:
    found = reason(tmp_path, "def load_habana_module():\n    raise RuntimeError('synDeviceAcquire failed')", "hl0")
    assert found.message == (
        "The HPU of stack 'gaudi' could not be tried in the phase 'load the module of the HPU': "
        "RuntimeError: synDeviceAcquire failed."
    )


def test_a_module_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_side, "LIMIT_S", 1.5)
    begun = time.monotonic()
    pid = tmp_path / "pid"
    tells = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\n"
    found = reason(tmp_path, tells + "def load_habana_module():\n    time.sleep(600)", "hl0")
    assert "could not be tried in the phase 'load the module of the HPU': it was not done after 1.5 s" in str(found)
    assert time.monotonic() - begun < 15
    assert not Path("/proc", pid.read_text()).exists()


def test_nodes_of_either_driver_are_devices_and_those_of_others_are_not(tmp_path: Path) -> None:
    places = Places(**machine(tmp_path, "hl0", "hl1", "hl_controlD0", "accel/accel0", "accel/accel1", "null"))
    vendor = tmp_path / "sys/class/accel/accel1/device/vendor"
    vendor.parent.mkdir(parents=True)
    vendor.write_text("0x8086\n")  # an NPU of Intel's
    assert [Path(path).name for path in nodes(places)] == ["hl0", "hl1", "accel0"]
    assert nodes(Places(str(tmp_path / "none"))) == []


def test_a_case_for_a_cpu_never_asks_for_an_hpu() -> None:
    asked = session(device="cpu")
    del asked.hpu  # asking would be an AttributeError
    assert require_device(asked, case(mode="training", device="hpu")) == ()
    refuse_without_hpu(asked, [case(mode="training", device="hpu")])


def wanting(error: CannotRun | Hpu, packages: dict[str, str] = HABANA, **options: Any) -> Any:
    found = session(packages=packages, **options)
    found.hpu = error
    return found


MISSING = CannotRun("There is none.", "Buy one.")


def test_a_row_for_an_hpu_is_not_run_where_there_is_none_and_asking_for_one_is_refused() -> None:
    row = case(mode="training", device="hpu")
    with pytest.raises(CannotRun, match=r"There is none\."):
        require_device(wanting(MISSING), row)
    with pytest.raises(UsageError, match=r"There is none\."):
        require_device(wanting(MISSING, device="hpu"), case(mode="training"))


def test_a_session_of_nothing_but_rows_for_an_hpu_is_refused_and_a_mixed_one_is_not() -> None:
    row, other = case(mode="training", device="hpu"), case()
    with pytest.raises(UsageError, match=r"There is none\. Hint: Buy one\."):
        refuse_without_hpu(wanting(MISSING), [row, row])
    refuse_without_hpu(wanting(MISSING), [row, other])
    refuse_without_hpu(wanting(MISSING), [])
    refuse_without_hpu(wanting(Hpu(device_type="GAUDI2", devices=8)), [row])


def test_ranks_on_hpus_need_habanas_horovod() -> None:
    hpu, row = Hpu(device_type="GAUDI", devices=8), case(mode="training", device="hpu", world_size=8)
    with pytest.raises(CannotRun) as caught:
        require_device(wanting(hpu, {**HABANA, "horovod": "0.28.1"}), row)
    assert caught.value.message == (
        "8 ranks on HPUs need habana-horovod, and stack 'gaudi' has Horovod 0.28.1, which knows no HPU."
    )
    told = require_device(wanting(hpu, {**HABANA, "habana-horovod": "1.6.1.92"}), row)
    assert told == ("Trained on GAUDI, one of 8 HPUs here.",)


def test_a_record_says_what_ran_on_an_hpu_and_what_asked_for_bf16() -> None:
    assert notes_of_placement({"placement": None, "bf16_conversion": None}) == ()
    assert notes_of_placement({"placement": {"CPU": 3, "HPU": 12}, "bf16_conversion": "full"}) == (
        "Operations of the first step by device: CPU 3, HPU 12; no convolution ran on a CPU.",
        "bf16 was asked of TF_BF16_CONVERSION=full, and no log proves it.",
    )


def test_a_stack_that_is_not_known_to_work_is_refused_with_strict_only() -> None:
    hpu, row = Hpu(device_type="GAUDI", devices=8), case(mode="training", device="hpu")
    require_device(wanting(hpu), row)  # Python 3.10, with which the vendor has not released it
    for refusal in (lambda found: require_device(found, row), lambda found: refuse_without_hpu(found, [row])):
        with pytest.raises(
            UsageError, match="--strict wants a stack that is known to work, and 'gaudi' is unverified: "
        ):
            refusal(wanting(hpu, strict=True))
    supported, older = wanting(hpu, strict=True), wanting(hpu, strict=True)
    supported.stack = msgspec.structs.replace(supported.stack, python_version="3.8.18", synapse="1.6.1")
    require_device(supported, row)
    older.stack = msgspec.structs.replace(supported.stack, synapse="1.5.0")
    with pytest.raises(UsageError, match=r"Nothing is known of .*, SynapseAI 1\.5\.0"):
        require_device(older, row)


def test_bf16_on_an_hpu_needs_the_conversion_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(device.CONVERSION, "full")
    device.check_conversion("hpu", "bf16")
    monkeypatch.setenv(device.CONVERSION, "0")
    device.check_conversion("hpu", "fp32")
    device.check_conversion("cpu", "bf16")
    with pytest.raises(Refused, match="TF_BF16_CONVERSION is not set") as caught:
        device.check_conversion("hpu", "bf16")
    assert "full" in caught.value.hint


# Two devices of the CPU have to be made before TensorFlow starts: in a process of its own.
TWO_CPUS = """
import json, sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from conformance.models import resnet
from conformance.subject import device, train as program
from conformance.wire import WrongAnswer
from test_device import Silent

arguments = json.loads(sys.argv[1])
resnet.VARIANTS["small"] = resnet.Variant((1,), (8,))
device.NAMES["hpu"] = "/device:CPU:1"
told = {}

told["placed"] = program.train(dict(arguments, device="hpu"), Silent(), 1)

def refused(work):
    try:
        work()
    except WrongAnswer as error:
        return error.message

@tf.function
def step(images, kernel):
    return tf.nn.conv2d(images, kernel, 1, "SAME")

def computed_elsewhere():
    with device.Placement("hpu").watched():
        step(tf.ones([1, 4, 4, 3]), kernel)

kernel = tf.Variable(tf.ones([3, 3, 3, 8]), name="kernel")
told["never placed"] = refused(lambda: device.check_variables("hpu", [kernel]))
told["computed elsewhere"] = refused(computed_elsewhere)
print(json.dumps(told))
"""


class Silent:
    """Takes what a subject says."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given, **named: None


@pytest.fixture(scope="module")
def two_cpus() -> dict[str, Any]:
    pytest.importorskip("tensorflow")
    from test_training_program import ARGUMENTS

    arguments = {
        **ARGUMENTS,
        "data": None,
        "train_images": 80,
        "batch_size": 4,
        "max_train_steps": 2,
        "precision": "bf16",
    }
    arguments.update(epochs=1, epochs_between_evals=None, prove=False, image_size=16)
    done = subprocess.run(
        [sys.executable, "-c", TWO_CPUS, json.dumps(arguments)],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.tensorflow
def test_a_network_is_trained_on_its_device_in_float32_that_the_device_converts(two_cpus: dict[str, Any]) -> None:
    found = two_cpus["placed"]
    assert found["device"] == "hpu" and found["steps"] == 2
    assert found["placement"]["CPU"] > 50  # operations of the first step; both devices are CPUs


@pytest.mark.tensorflow
def test_variables_that_are_elsewhere_end_the_run(two_cpus: dict[str, Any]) -> None:
    where = "/job:localhost/replica:0/task:0/device:CPU:0"
    assert two_cpus["never placed"] == f"kernel:0 is on {where}, and the network is to be trained on /device:CPU:1."


@pytest.mark.tensorflow
def test_convolutions_that_ran_elsewhere_end_the_run(two_cpus: dict[str, Any]) -> None:
    assert two_cpus["computed elsewhere"].startswith("1 convolutions of the first step ran elsewhere than on CPU:1: ")


@pytest.mark.tensorflow
@pytest.mark.parametrize("cuda", [True, False])
def test_a_tensorflow_that_is_built_for_cuda_is_refused_before_the_module_aborts(
    cuda: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tf = pytest.importorskip("tensorflow")
    loaded: list[str] = []
    htf = SimpleNamespace(load_habana_module=lambda: loaded.append("module"))
    monkeypatch.setattr(device, "_imported", lambda: htf)
    monkeypatch.setattr(device, "check", lambda places: None)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: cuda)
    with pytest.raises(Refused) as caught:
        device.load("hpu")
    if cuda:
        assert f"TensorFlow {tf.__version__} of this stack is built for CUDA" in caught.value.message and not loaded
    else:
        told = "The module of habana-tensorflow was loaded, and TensorFlow lists no HPU."
        assert caught.value.message == told and loaded


@pytest.mark.tensorflow
def test_on_a_cpu_nothing_is_placed_or_watched() -> None:
    pytest.importorskip("tensorflow")
    placement = device.Placement("cpu")
    with device.placed("cpu"), placement.watched():
        pass
    device.check_variables("cpu", [object()])
    device.load("cpu", Places("/nowhere", "/nowhere"))
    assert placement.told is None
