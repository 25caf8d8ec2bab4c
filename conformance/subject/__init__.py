"""The child process: the only place where TensorFlow runs. Python 3.8, TensorFlow 2.8 and newer."""
