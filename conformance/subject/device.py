"""Where a network is trained: on the CPU, or on an HPU, a Gaudi, that habana-tensorflow brings to TensorFlow.

The module of an HPU is loaded once, before any graph. What is built and run within ``placed`` is put there, and what
of it TensorFlow left on the CPU is found in the first step. None of this has run on an HPU.
"""

import os
import re
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional

from conformance.wire import Refused, WrongAnswer

CPU, HPU = "cpu", "hpu"
VENDOR = "0x1da3"
PACKAGE = "habana-tensorflow"
NAMES = {CPU: None, HPU: "/device:HPU:0"}  # what TensorFlow calls them; each rank sees one HPU only
LOADING = "load the module of the HPU"  # the phase in which it may abort the process
# The environment variable by which the graph, built in float32, is converted for bf16.
CONVERSION = "TF_BF16_CONVERSION"


class Places(NamedTuple):
    """Where the kernel shows the driver of HPUs and their nodes."""

    dev: str = "/dev"
    sys: str = "/sys"

    @property
    def driver(self) -> str:
        return os.path.join(self.sys, "module/habanalabs")


def nodes(places: Places) -> List[str]:
    """Return the device nodes of HPUs: hl0 of older drivers, accel/accel0 of newer ones; not those of control."""
    found = []
    for folder, wanted in (("", r"hl\d+"), ("accel", r"accel\d+")):
        folder = os.path.join(places.dev, folder)
        names = os.listdir(folder) if os.path.isdir(folder) else []
        there = [name for name in sorted(names) if re.fullmatch(wanted, name)]
        found += [os.path.join(folder, name) for name in there if _is_habana(places, name)]
    return found


def _is_habana(places: Places, name: str) -> bool:
    """Tell whether a node is Habana's by its PCI vendor; accelerators of others have nodes below accel too."""
    try:
        with open(os.path.join(places.sys, "class/accel", name, "device/vendor")) as file:
            return file.read().strip() == VENDOR
    except OSError:
        return True


def load(device: str, places: Places = Places()) -> None:  # noqa: B008  (it cannot be changed)
    """Load what a device needs, once a process and before TensorFlow runs anything; nothing for a CPU.

    Raises Refused with what is missing: package, driver or device. Where SynapseAI itself is missing, or no device can
    be used, Habana's library aborts the process instead, so that ``probe_device`` tries it first in one of its own.
    """
    if device == CPU:
        return
    check(places)
    htf = _imported()
    _refuse_cuda()
    htf.load_habana_module()
    import tensorflow as tf

    if not tf.config.list_physical_devices("HPU"):
        told = "The module of %s was loaded, and TensorFlow lists no HPU." % PACKAGE
        raise Refused(told, "See with `hl-smi` which devices are up and free.")


def check(places: Places) -> None:
    """Raise Refused where package, driver or device is missing; nothing is loaded."""
    try:
        there = find_spec("habana_frameworks") is not None
    except ImportError:
        there = False
    if not there:
        told = "An HPU needs %s, which this stack has not." % PACKAGE
        raise Refused(told, "Make a stack that has it with `tox -e synapse161`, and name it with --stack synapse161.")
    if nodes(places):
        return
    if not os.path.isdir(places.driver):
        told = "The driver of HPUs, habanalabs, is not loaded on this machine, and no device node is there."
        raise Refused(told, "Install and load it, or train on a CPU with --device cpu.")
    told = "The driver of HPUs is loaded, and there is no device: neither %s/hl0 nor %s/accel/accel0."
    hint = "See with `lspci -d 1da3:` whether there is one; start a container with --runtime=habana."
    raise Refused(told % (places.dev, places.dev), hint)


def _imported() -> Any:
    try:
        import habana_frameworks.tensorflow as htf
    except Exception as error:  # ImportError for another TensorFlow; what else it may be is its own business
        first = (str(error).splitlines() or ["?"])[0].rstrip(".")
        told = "%s of this stack cannot be imported: %s." % (PACKAGE, first)
        raise Refused(told, "It needs the TensorFlow that it was built for: `tox -e synapse161` has both.") from None
    return htf


def _refuse_cuda() -> None:
    """Raise Refused for a TensorFlow whose NCCL is registered already: the module registers its own, and aborts."""
    tf = sys.modules.get("tensorflow")  # habana-tensorflow has imported it
    if tf is not None and tf.test.is_built_with_cuda():
        told = "TensorFlow %s of this stack is built for CUDA, beside which the module of %s aborts the process."
        hint = "Install tensorflow-cpu of the same version in its place; `tox -e synapse161` does."
        raise Refused(told % (tf.__version__, PACKAGE), hint)


@contextmanager
def placed(device: str) -> Iterator[None]:
    """Put what is built and run in the block on the device; on the CPU nothing is said, as everywhere else."""
    name = NAMES[device]
    if name is None:
        yield
        return
    import tensorflow as tf

    with tf.device(name):
        yield


def check_variables(device: str, variables: Iterable[Any]) -> None:
    """Raise WrongAnswer for a variable that is not on the device; on the CPU nothing can be elsewhere."""
    name = NAMES[device]
    for variable in variables if name else ():
        if not variable.device.endswith(name):
            told = "%s is on %s, and the network is to be trained on %s." % (variable.name, variable.device, name)
            raise WrongAnswer(told, "See in the log why TensorFlow could not place it there.")


class Placement:
    """Which operations of a step ran where, by the graphs that TensorFlow ran; None for a CPU, where it is no question.

    ``told`` has numbers of operations by the device's kind, such as {"HPU": 12, "CPU": 3}.
    """

    def __init__(self, device: str) -> None:
        self._name = NAMES[device]
        self.told: Optional[Dict[str, int]] = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the first step in the block; raises WrongAnswer where it, or a convolution of it, ran on the CPU."""
        if self._name is None or self.told is not None:
            yield
            return
        from tensorflow.python.eager import context

        with context.collect_graphs(optimized=True) as graphs:
            yield
        ran = [(node.op, node.device.rpartition("device:")[2]) for graph in graphs for node in graph.node]
        kinds = [kind.partition(":")[0] or "unknown" for _, kind in ran]
        self.told = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        wanted = self._name.rpartition("device:")[2]
        elsewhere = [op for op, where in ran if "Conv2D" in op and where != wanted]
        if elsewhere or not any(where == wanted for _, where in ran):
            what = "%d convolutions of the first step" % len(elsewhere) if elsewhere else "The first step"
            told = "%s ran elsewhere than on %s: operations by device are %s."
            raise WrongAnswer(told % (what, wanted, self.told), "See in the log which could not be placed there.")


def check_conversion(device: str, precision: str) -> None:
    """Raise Refused where an HPU is to compute in bf16 and nobody asked for the conversion of the graph."""
    if device == HPU and precision == "bf16" and os.environ.get(CONVERSION, "") in ("", "0", "false"):
        told = "bf16 on an HPU is a conversion of the graph, and %s is not set." % CONVERSION
        raise Refused(told, "Set it to full, or to the path of a recipe.")
