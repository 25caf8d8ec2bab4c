"""The ranks of a training: one process by itself, or several that Horovod joins, behind one interface.

Every rank calls what is collective here, and in the same order. ``told`` is what a step tells, a vector of float32.
Horovod's operations are used on plain variables and tensors: its wrappers of Keras optimisers do nothing, without a
word, under Keras 3.
"""

import hashlib
import os
import statistics
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np
import tensorflow as tf

from conformance.data import storage
from conformance.subject.runtime import package_versions
from conformance.wire import Consequence, Refused, WrongAnswer

ENGINES = ("horovod",)
COMPRESSIONS = (None, "fp16")
SHARDINGS = ("record", "file")
LAUNCHED = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK")  # what mpirun and horovodrun tell each rank
REDUCTIONS_TIMED = 5
LEAVING_S = 5.0
# What TensorFlow's errors say where Horovod lost a rank: by itself, over MPI, and over Gloo.
LOST = (
    "Horovod has been shut down", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
    "Timed out waiting",
)  # fmt: skip

Value = TypeVar("Value")
Reduced = Tuple[tf.Tensor, List[tf.Tensor]]


class Wanted(NamedTuple):
    """The job's argument ``ranks``."""

    engine: str
    world_size: int
    communicate: bool = True  # False: gradients are not reduced, which the comparison of weights must find
    timeline: Optional[str] = None  # a file for Horovod's own trace
    compression: Optional[str] = None  # of gradients on their way
    adasum: bool = False  # Maleki et al. 2020, arXiv:2006.02924, instead of the mean
    check_every: int = 50  # steps between two comparisons of all weights
    timed_bytes: Sequence[int] = ()  # sizes of reductions that are timed at the end, beside that of the gradients
    shard: str = "record"  # file: a rank reads its own files only, where these hold enough images
    elastic: bool = False  # ranks that are left go on when others are lost; by horovodrun only


def parsed(given: Optional[Dict[str, Any]]) -> Wanted:
    """Return the argument ``ranks``, which is None for a process by itself; raises Refused for a value not allowed."""
    found = Wanted("none", 1) if given is None else Wanted(**given)
    if given is not None:
        for name, known in (("engine", ENGINES), ("compression", COMPRESSIONS), ("shard", SHARDINGS)):
            value = getattr(found, name)
            if value not in known:
                message = "The ranks have the %s %r; known are %s." % (name, value, ", ".join(map(repr, known)))
                raise Refused(message, "Change the ranks of the case.")
        for name in ("world_size", "check_every"):
            if getattr(found, name) < 1:
                message = "The ranks have the %s %d; allowed is 1 or more." % (name, getattr(found, name))
                raise Refused(message, "Change the ranks of the case.")
    if found.elastic and found.shard == "file":
        message = "Ranks that go on without one that is lost cannot read the files of that one."
        raise Refused(message, "Share the images out by record.")
    if found.adasum and found.world_size & (found.world_size - 1):
        message = "Adasum was asked for with %d ranks; allowed are powers of 2." % found.world_size
        raise Refused(message, "Change the ranks of the case.")
    return found


class Alone:
    """A process by itself: what is collective does nothing, and costs nothing."""

    joined = False
    size, rank, local_rank = 1, 0, 0
    wanted = Wanted("none", 1)
    left = [0]  # who is there, by the numbers that they were started with

    def __init__(self) -> None:
        self.asked = False  # to end, by a signal or a fault

    @property
    def agreed(self) -> bool:
        """Whether all ranks know that one was asked to end."""
        return self.asked

    def once(self, work: Callable[[], Value]) -> Value:
        """Do something on the first rank, and return on each what came of it; that must be small and be pickled."""
        return work()

    def gather(self, value: Value) -> List[Value]:
        """Return the value of each rank, in their order."""
        return [value]

    def sum(self, numbers: Sequence[int]) -> List[int]:
        return list(numbers)

    def reduce(self, told: tf.Tensor, gradients: List[tf.Tensor]) -> Reduced:
        """Return the means over the ranks of what a step tells and of its gradients."""
        return told, gradients

    def reduction_s(self, gradients: Sequence[Any]) -> Optional[float]:
        """Time reductions of tensors of these shapes while no rank does anything else; seconds of the median one."""
        return None

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Give the variables the values that they have on the first rank."""

    def average(self, variables: Sequence[tf.Variable]) -> None:
        """Give the variables the mean of the values that they have on the ranks."""

    def different(self, variables: Dict[str, tf.Variable]) -> Optional[str]:
        """Return the first variable that is not the same on all ranks, byte for byte, and where, in words."""

    def by_all(self, error: Refused) -> Refused:
        """Return an error that every rank raises in the same place, so that it is told once."""
        return error

    def own(self, a: Dict[str, Any]) -> Dict[str, Any]:
        """Return the arguments as they are for this rank: the first alone writes what a training leaves.

        ``dealt`` is added: how many micro-batches all ranks take in a step. Ranks that are left of more take those of
        all, and ``accumulate`` is their own part of them.
        """
        return dict(a, dealt=a["accumulate"])

    def regrouped(self, error: Exception) -> bool:
        """Join the ranks that are left where an error tells that one is lost; tell whether they go on."""
        return False

    def say(self, text: str) -> None:
        """Print a line of the log, once."""
        print(text, flush=True)


class Horovod:
    """The ranks that mpirun or horovodrun started, joined by Horovod 0.28."""

    joined = True

    def __init__(self, asked_for: Wanted) -> None:
        if not any(name in os.environ for name in LAUNCHED):  # MPI would abort the process
            raise Refused(
                "%d ranks were asked for, and 1 was started, by no launcher." % asked_for.world_size,
                "Start the ranks with mpirun or horovodrun.",
            )
        if asked_for.timeline:
            storage.make_folder(os.path.dirname(os.path.abspath(asked_for.timeline)))
            os.environ["HOROVOD_TIMELINE"] = asked_for.timeline  # read when Horovod starts
        try:
            import horovod.tensorflow as hvd
        except ImportError as error:
            raise Refused(
                "Horovod is not installed in this stack: %s." % (str(error).splitlines() or ["?"])[0].rstrip("."),
                "Run conformance/stacks/horovod_wheel.py with the Python of that stack, or name another --stack.",
            ) from None
        self._hvd, self.wanted = hvd, asked_for
        self._join()
        self._number, self.left = self.rank, list(range(self.size))
        if self.size != asked_for.world_size:
            found = "%d ranks were asked for, and Horovod found %d." % (asked_for.world_size, self.size)
            self.close()
            raise Refused(found, "Start the ranks with the mpirun that this stack's Horovod was built with.")

    def _join(self) -> None:
        hvd = self._hvd
        hvd.init()
        self.size, self.rank, self.local_rank = hvd.size(), hvd.rank(), hvd.local_rank()
        self.asked = self.agreed = False
        self._reduced = tf.function(self._reduce, autograph=False)

    def regrouped(self, error: Exception) -> bool:
        if not (self.wanted.elastic and _tells_of_another(error)):
            return False
        self._hvd.shutdown()
        self._join()
        self.left = self.gather(self._number)
        return True

    def once(self, work: Callable[[], Value]) -> Value:
        # The names are given because Horovod would take that of the value's type, which need not be that of a peer's.
        value: Value = self._hvd.broadcast_object(None if self.rank else work(), 0, name="once")
        return value

    def gather(self, value: Value) -> List[Value]:
        return list(self._hvd.allgather_object(value, name="gather"))

    def sum(self, numbers: Sequence[int]) -> List[int]:
        sent = tf.constant([*numbers, int(self.asked)], tf.int64)
        *sums, asked = self._hvd.allreduce(sent, op=self._hvd.Sum, name="sum").numpy().tolist()
        self.agreed = self.agreed or asked > 0
        return sums

    def reduce(self, told: tf.Tensor, gradients: List[tf.Tensor]) -> Reduced:
        try:
            means, gradients = self._reduced(tf.concat([told, [float(self.asked)]], 0), gradients)
        except tf.errors.FailedPreconditionError as error:
            if "Mismatched" not in str(error):
                raise
            raise self._mismatch([tuple(gradient.shape) for gradient in gradients]) from None
        self.agreed = self.agreed or float(means[-1]) > 0
        return means[:-1], gradients

    def _mismatch(self, shapes: List[Tuple[int, ...]]) -> Refused:
        """Return what to raise for gradients of other shapes, which Horovod tells on every rank without naming one."""
        of_all = self.gather(shapes)
        rank = next((rank for rank, own in enumerate(of_all) if own != of_all[0]), 0)
        here, there = next((pair for pair in zip(of_all[0], of_all[rank]) if pair[0] != pair[1]), ((), ()))
        found = "Rank %d has a gradient of the shape %s where rank 0 has %s." % (rank, list(there), list(here))
        return self.by_all(WrongAnswer(found, "Give all ranks the same stack: they do not train the same network."))

    def _reduce(self, told: tf.Tensor, gradients: List[tf.Tensor]) -> Reduced:
        hvd = self._hvd
        means = hvd.allreduce(told, op=hvd.Average, name="told")
        if not self.wanted.communicate:
            return means, gradients
        compression = hvd.Compression.fp16 if self.wanted.compression == "fp16" else hvd.Compression.none
        if not self.wanted.adasum:
            return means, hvd.grouped_allreduce(gradients, op=hvd.Average, compression=compression, name="gradients")
        # One by one: of a group Horovod 0.28 cannot take it.
        return means, [
            hvd.allreduce(gradient, op=hvd.Adasum, compression=compression, name="gradient%d" % number)
            for number, gradient in enumerate(gradients)
        ]

    def reduction_s(self, gradients: Sequence[Any]) -> Optional[float]:
        zeros = [tf.zeros(gradient.shape) for gradient in gradients]
        taken = []
        for _ in range(REDUCTIONS_TIMED + 1):  # the first brings the ranks together
            begun = time.perf_counter()
            self._reduced(tf.zeros([1]), zeros)
            taken.append(time.perf_counter() - begun)
        return max(self.gather(statistics.median(taken[1:])))

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        self._hvd.broadcast_variables(list(variables), 0)

    def average(self, variables: Sequence[tf.Variable]) -> None:
        here = [tf.convert_to_tensor(variable) for variable in variables]
        means = self._hvd.grouped_allreduce(here, op=self._hvd.Average, name="average")
        for variable, mean in zip(variables, means):
            variable.assign(mean)

    def different(self, variables: Dict[str, tf.Variable]) -> Optional[str]:
        digests = self.gather([hashlib.sha256(variable.numpy()).digest() for variable in variables.values()])
        for name, here in zip(variables, np.array(digests, dtype=object).T):
            others = [rank for rank, digest in enumerate(here) if digest != here[0]]
            if others:
                many = "s" if len(others) > 1 else ""
                return "%s on rank%s %s is not that of rank 0" % (name, many, ", ".join(map(str, others)))
        return None

    def by_all(self, error: Refused) -> Refused:
        return Consequence(error.message, error.hint) if self.rank else error

    def own(self, a: Dict[str, Any]) -> Dict[str, Any]:
        places = ("model_dir", "tensorboard", "profile_steps", "export_graph", "export_saved_model")
        own = len(range(self.rank, self.wanted.world_size, self.size))
        a = dict(a, dealt=a["accumulate"] * self.wanted.world_size, accumulate=a["accumulate"] * own)
        return dict(a, **dict.fromkeys(places)) if self.rank else a

    def say(self, text: str) -> None:
        if not self.rank:
            print(text, flush=True)

    def close(self) -> None:
        """Leave; what another rank waits for ends with an error there.

        Where that takes long, as without memory, the end of the process does the same: it has something to tell first.
        """
        leaving = threading.Thread(target=self._hvd.shutdown, daemon=True)
        leaving.start()
        leaving.join(LEAVING_S)


Ranks = Union[Alone, Horovod]


@contextmanager
def joined(given: Optional[Dict[str, Any]], device: str = "cpu") -> Iterator[Ranks]:
    """Join the ranks for as long as the block runs.

    Raises Refused where other ranks are there than were asked for, and Consequence for an error of the block that
    only tells that another rank ended.
    """
    asked_for = parsed(given)
    if given is None:
        yield Alone()
        return
    if device == "hpu":
        _check_flavour()
    ranks = Horovod(asked_for)
    try:
        yield ranks
    except Exception as error:
        if not _tells_of_another(error):
            raise
        message = "Rank %d ended because another rank did." % ranks.rank
        raise Consequence(message, "Read what the other ranks say.") from None
    finally:
        ranks.close()


def _check_flavour() -> None:
    """Raise Refused for a Horovod that knows no HPU: it would reduce over the CPUs, and nothing would say so."""
    found = package_versions("habana-horovod", "horovod")
    if "habana-horovod" not in found:
        there = " and ".join("%s %s" % item for item in found.items()) or "none"
        raise Refused(
            "Ranks on HPUs are joined by habana-horovod, and this stack has %s." % there,
            "Run conformance/stacks/horovod_wheel.py with its Python where the headers of SynapseAI are.",
        )


def _tells_of_another(error: Exception) -> bool:
    lost = any(words in str(error) for words in LOST)
    return type(error).__name__ == "HorovodInternalError" or (isinstance(error, tf.errors.OpError) and lost)
