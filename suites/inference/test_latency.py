"""Is it fast? The time of one image alone."""


def test_latency(case, inference, timed, judge):
    judge(timed(inference.speed(case)))
