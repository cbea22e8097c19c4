"""The measure of speed: the loop that everyone writes against the trainer's own step, and the parts of a step one by one.

Images are random and of CIFAR-100's shape: no step's time depends on what is in them. See `python -m benchmark bench --help`.
"""
