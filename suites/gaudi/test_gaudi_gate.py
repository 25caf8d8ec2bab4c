"""Do eight HPUs train to an accuracy, and end with one network?"""

import pytest

pytestmark = pytest.mark.convergence


def test_gaudi_gate(case, training, judge):
    judge(training.run(case))
