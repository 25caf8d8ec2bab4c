"""Read a whole data set and say what is in it. Arguments of the job: directory, dataset, full."""

from typing import Any, Dict

from conformance.data import verify
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.wire import Job


def run(job: Job, events: Events) -> Dict[str, Any]:
    a = job.arguments
    runtime.eager_threads(job)
    runtime.announce(job, events)
    return verify.verify(a["directory"], a["dataset"], a["full"], job.intra_op_threads, events)
