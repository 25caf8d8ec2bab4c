"""Is it fast? Images a second in batches, beside what this machine's matrix product reaches."""


def test_throughput(case, inference, timed, judge):
    judge(timed(inference.speed(case)))
