"""Does it learn what it should? Training to an accuracy on the embedded digits, and a control that cannot learn."""

import pytest

pytestmark = pytest.mark.convergence


def test_convergence(case, training, judge):
    judge(training.run(case))
