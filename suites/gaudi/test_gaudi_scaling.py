"""What are more HPUs worth?"""


def test_gaudi_scaling(case, scaling, judge):
    judge(scaling.run(case))
