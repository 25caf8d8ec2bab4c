"""Write ImageNet's archives as TFRecords. Arguments of the job: the fields of ``conformance.data.convert.Request``."""

from typing import Any, Dict

from conformance.data import convert
from conformance.data.manifest import summary
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.wire import Job


def run(job: Job, events: Events) -> Dict[str, Any]:
    runtime.eager_threads(job)
    runtime.announce(job, events)
    return summary(convert.convert(convert.Request(**job.arguments), job.intra_op_threads, events))
