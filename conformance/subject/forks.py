"""Work in a fork of this process, made before TensorFlow's runtime starts: what it starts there is not started here.

A fork after that would hang, because the runtime's threads are not in it. Its import is, and is not paid again.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
import traceback
from typing import Any, Callable

from conformance.models import graphs
from conformance.wire import Refused

_DONE, _BROKEN, _REFUSED = 0, 1, 3  # exit statuses of a fork
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class ForkFailed(Exception):
    """A fork that ended without an answer; its traceback, if it had one, is on stderr."""

    def __init__(self, status: int) -> None:
        super().__init__("a fork of the subject ended with wait status %d" % status)
        self.status = status


class Fork:
    """``work`` begun in a fork; this process goes on beside it until it asks for the answer, once."""

    def __init__(self, work: Callable[[], bytes]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by answer)
        sys.stdout.flush()
        sys.stderr.flush()
        parent, self._child = os.getpid(), os.fork()
        if self._child == 0:
            _die_with(parent)
            _work_and_exit(work, self._file)

    def answer(self) -> bytes:
        """Wait, and return the bytes that ``work`` returned; raises Refused as it did, and ForkFailed otherwise."""
        with self._file as file:
            _, status = os.waitpid(self._child, 0)
            file.seek(0)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _REFUSED:
                raise Refused(*json.load(file))
            if status != 0:
                raise ForkFailed(status)
            return bytes(file.read())


def in_fork(work: Callable[[], bytes]) -> bytes:
    """Return the bytes that ``work`` returns in a fork; raises Refused as it does, and ForkFailed otherwise."""
    return Fork(work).answer()


def _die_with(parent: int) -> None:
    """Let the kernel kill this fork when the subject is killed: nobody else would."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(_BROKEN)


def _work_and_exit(work: Callable[[], bytes], answer: Any) -> None:
    status = _BROKEN
    try:
        answer.write(work())
        status = _DONE
    except Refused as refused:
        answer.write(json.dumps([refused.message, refused.hint]).encode())
        status = _REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        answer.flush()
        sys.stderr.flush()
        os._exit(status)


def read_graph(path: str) -> Any:
    """Read a graph as ``graphs.read_graph`` does, a SavedModel in a fork: its variables need the runtime."""
    if not os.path.isdir(path):
        return graphs.read_graph(path)
    return graphs.GraphDef.FromString(in_fork(lambda: bytes(graphs.read_graph(path).SerializeToString())))
