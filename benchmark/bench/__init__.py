"""Measurements of speed and precision: the naive training loop against ours, and the parts of a step.

Images are random and of CIFAR-100's shape, because the time of a step does not depend on their content.
See `python -m benchmark bench --help`.
"""
