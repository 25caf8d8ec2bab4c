"""Write the embedded digits as TFRecords. Arguments of the job: arrays, output, seed."""

from typing import Any, Dict

from conformance.data import digits
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.wire import Job

# Shards of each split: several, as ImageNet has, so that reading them side by side is tried.
SHARDS = 4


def run(job: Job, events: Events) -> Dict[str, Any]:
    a = job.arguments
    runtime.announce(job, events)
    events.phase("write TFRecords")
    digits.write_digits(a["arrays"], a["output"], a["seed"], SHARDS)
    return {"digest": digits.dataset_digest(a["output"])}
