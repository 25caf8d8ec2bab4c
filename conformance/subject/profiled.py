"""Which steps of a training a profile of TensorFlow's holds, read from the trace that it left."""

import glob
import os
from typing import Any, List, Optional

STEP = "train"  # the name that each profiled step has in the trace


def steps(directory: str) -> Optional[List[int]]:
    """Return the numbers of the steps in the newest trace below a directory of TensorBoard's, in their order.

    Empty where there is no trace; None where this TensorFlow has no reader of traces.
    """
    reader = _reader()
    if reader is None:
        return None
    traces = glob.glob(os.path.join(glob.escape(directory), "plugins", "profile", "*", "*.xplane.pb"))
    if not traces:
        return []
    found: List[int] = []
    with open(max(traces, key=os.path.getmtime), "rb") as file:
        space = reader.XSpace.FromString(file.read())
    for plane in space.planes:
        named = {number for number, metadata in plane.event_metadata.items() if metadata.name == STEP}
        numbered = {number for number, metadata in plane.stat_metadata.items() if metadata.name == "step_num"}
        for line in plane.lines:
            for event in line.events:
                if event.metadata_id in named:
                    found += [stat.int64_value for stat in event.stats if stat.metadata_id in numbered]
    return sorted(set(found))


def _reader() -> Any:
    """Return the module of the trace's messages, which moved in TensorFlow 2.12."""
    try:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2
    except ImportError:
        try:
            from tensorflow.core.profiler.protobuf import xplane_pb2
        except ImportError:
            return None
    return xplane_pb2
