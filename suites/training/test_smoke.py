"""Does it learn at all? A hundred steps and more of the real network, and the loss falls."""

import pytest

pytestmark = pytest.mark.smoke


def test_smoke(case, training, judge):
    judge(training.run(case))
