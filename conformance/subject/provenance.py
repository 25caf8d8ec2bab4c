"""What a graph was made from, in a file beside it: ``FILE.pb.json``."""

import json
import os
from typing import Any, Dict

import tensorflow as tf

from conformance import __version__
from conformance.data.shards import file_sha256
from conformance.subject.freeze import write_graph
from conformance.subject.runtime import package_versions
from conformance.wire import Refused


def write_made(
    graph_def: Any, path: str, made_by: str, source: str, source_sha256: str, **facts: Any
) -> Dict[str, Any]:
    """Write a graph, then what it was made from, each as a whole or not at all; return what was written of it.

    ``sha256`` is the graph's own digest: a sidecar whose digest is another belongs to another graph. Raises Refused
    where the files cannot be written.
    """
    try:
        return _written(graph_def, path, made_by, source, source_sha256, facts)
    except OSError as error:
        message = "%r cannot be written: %s." % (path, error.strerror or error)
        raise Refused(message, "Free space there, or give another --output.") from error


def _written(
    graph_def: Any, path: str, made_by: str, source: str, source_sha256: str, facts: Dict[str, Any]
) -> Dict[str, Any]:
    write_graph(graph_def, path)
    said = {
        "sha256": file_sha256(path),
        "made_by": made_by,
        "from": {"path": os.path.abspath(source), "sha256": source_sha256},
        "tensorflow": tf.__version__,
        "packages": package_versions("neural-compressor", "neural-compressor-tf"),
        "harness": __version__,
        **facts,
    }
    with open(path + ".json.part", "w", encoding="utf-8") as file:
        json.dump(said, file, indent=1)
    os.replace(path + ".json.part", path + ".json")
    return said
