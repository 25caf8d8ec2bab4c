"""Does the recipe for Gaudi learn at all? A hundred steps on the embedded digits, by one HPU and by two."""

import pytest

pytestmark = pytest.mark.smoke


def test_gaudi_smoke(case, training, judge):
    judge(training.run(case))
