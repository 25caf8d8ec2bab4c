"""Write the embedded digits as TFRecords. Arguments of the job: arrays, output, seed, perhaps layout and jpeg_tree."""

from typing import Any, Dict

from conformance.data import digits
from conformance.data.manifest import summary
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.wire import Job

# Shards of each split: several, as ImageNet has, so that reading them side by side is tried.
SHARDS = 4


def run(job: Job, events: Events) -> Dict[str, Any]:
    a = job.arguments
    runtime.announce(job, events)
    events.phase("write TFRecords")
    said = digits.write_digits(
        a["arrays"], a["output"], a["seed"], SHARDS, a.get("layout", "flat"), a.get("jpeg_tree", False)
    )
    return {"digest": digits.dataset_digest(a["output"]), **summary(said)}
