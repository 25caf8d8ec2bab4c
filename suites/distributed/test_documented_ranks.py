"""The distributed runs of the recipe, as long as it says; its convergence gate among them."""

import pytest

pytestmark = pytest.mark.documented


def test_documented_ranks(case, training, judge):
    judge(training.run(case))
