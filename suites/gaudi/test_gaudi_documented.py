"""Every run that the recipe for Gaudi documents, as long as it says."""

import pytest

pytestmark = pytest.mark.documented


def test_gaudi_documented(case, training, judge):
    judge(training.run(case))
