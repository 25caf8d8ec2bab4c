"""Is the smaller type worth it? A precision against fp32, taking turns in one process."""


def test_speedup(case, inference, judge):
    judge(inference.speedup(case))
