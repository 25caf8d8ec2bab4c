"""Draw images of a data set. Arguments of the job: the fields of ``conformance.data.subset.Request``."""

from typing import Any, Dict

from conformance.data import subset
from conformance.data.manifest import summary
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.wire import Job


def run(job: Job, events: Events) -> Dict[str, Any]:
    runtime.eager_threads(job)
    runtime.announce(job, events)
    return summary(subset.draw(subset.Request(**job.arguments), job.intra_op_threads, events))
