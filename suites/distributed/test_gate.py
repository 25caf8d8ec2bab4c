"""Training by several ranks to a target, judged and logged by MLPerf's rules; never an official result."""

import pytest

pytestmark = pytest.mark.convergence


def test_gate(case, training, judge):
    judge(training.run(case))
