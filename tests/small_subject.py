"""Stands in place of a subject: it trains a network so small that two ranks need seconds, and proves no precision."""

from __future__ import annotations

import os
import sys

from conformance.models import resnet
from conformance.models.resnet import Variant
from conformance.subject import __main__ as subject
from conformance.subject import training_proof

resnet.VARIANTS["resnet50_v1_5"] = Variant((1,), (8,))
training_proof.shown = lambda *given: {**training_proof.NOTHING, "native_share": 1.0}

if __name__ == "__main__":
    status = subject.main(sys.argv[-1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
