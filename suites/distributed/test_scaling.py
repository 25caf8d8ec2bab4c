"""What is a rank more worth? Ranks and one alone in turns, on as many cores each."""


def test_scaling(case, scaling, judge):
    judge(scaling.run(case))
