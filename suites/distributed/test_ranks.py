"""Do several ranks train one model? A hundred steps by mpirun and by horovodrun, beside one rank with all images."""


def test_ranks(case, training, judge):
    judge(training.run(case))
