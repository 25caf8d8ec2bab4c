"""Run one job: ``python -m conformance.subject JOB.json``.

Ends with exit status 0 and a result event, or 1 and a failed event. What TensorFlow and the
libraries print goes to stdout and stderr, which the launch sends to the log file.
"""

import importlib
import os
import sys
import traceback

from conformance import wire
from conformance.subject.events import Events, events_path
from conformance.subject.verbose_pass import VerbosePass

MODULES = {
    wire.MEASURE: "measure",
    wire.ACCURACY: "accuracy",
    wire.WRITE_DIGITS: "write_digits",
    wire.TRAIN: "train",
    wire.FREEZE_SEEDED: "freeze",
    wire.QUANTIZE: "quantize",
    wire.INSPECT: "inspect_graph",
    wire.FREEZE: "freeze_graph",
    wire.CONVERT: "convert_graph",
    wire.CONVERT_IMAGENET: "convert_imagenet",
    wire.SUBSET: "subset",
    wire.VERIFY: "verify_data",
    wire.PROBE_DEVICE: "probe_device",
}
PROVEN = (wire.MEASURE, wire.ACCURACY)


def main(job_path: str) -> int:
    job = wire.read_job(job_path)
    ranked = job.arguments.get("ranks") is not None
    events = Events(events_path(job.events, os.environ) if ranked else job.events)
    proven = job.kind in PROVEN
    beside = (VerbosePass(job_path) if job.arguments.get("prove", True) else None,) if proven else ()
    try:
        with events.alive():
            events.phase("import TensorFlow")
            module = importlib.import_module("conformance.subject." + MODULES[job.kind])
            result = module.run(job, events, *beside)
        events.send(wire.RESULT, result=result)
        return 0
    except wire.Refused as refused:
        told = {"message": refused.message, "hint": refused.hint, "refused": _is_users(refused)}
        events.send(wire.FAILED, **told, consequence=isinstance(refused, wire.Consequence))
    except Exception as error:  # the last door: whatever it was, the host learns of it and the log keeps the traceback
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        message = "%s: %s" % (type(error).__name__, first)
        events.send(wire.FAILED, message=message, hint="", refused=False, consequence=False)
    return 1


def _is_users(refused: wire.Refused) -> bool:
    return not isinstance(refused, wire.WrongAnswer)


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # all is said and written; tearing TensorFlow down would take another second
