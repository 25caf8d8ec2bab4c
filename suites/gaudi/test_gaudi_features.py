"""Does the recipe for Gaudi do what else is asked of it? Profile, export, fine-tuning, no checkpoints."""


def test_gaudi_features(case, training, judge):
    judge(training.run(case))
