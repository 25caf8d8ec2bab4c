"""Is it right? Top-1 and top-5 over every validation image, in the precision that the case claims."""


def test_accuracy(case, inference, judge):
    judge(inference.accuracy(case))
