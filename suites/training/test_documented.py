"""Training as long as the recipes say: days of ImageNet."""

import pytest

pytestmark = pytest.mark.documented


def test_documented(case, training, judge):
    judge(training.run(case))
