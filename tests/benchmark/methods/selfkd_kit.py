"""Plain-loop formulas for the tests of the self-distillation methods."""

import math

from kit import gradients


def softmax(row, temperature=1.0):
    top = max(row)
    exps = [math.exp((z - top) / temperature) for z in row]
    return [e / sum(exps) for e in exps]


def entropy(target, row):
    """Cross-entropy of a target distribution with softmax(row)."""
    return -sum(t * math.log(q) for t, q in zip(target, softmax(row), strict=True))


def onehot(label, classes=10):
    return [1.0 if c == label else 0.0 for c in range(classes)]


def kl(target, row, temperature=1.0):
    """KL(target || softmax(row / T))."""
    pairs = zip(target, softmax(row, temperature), strict=True)
    return sum(t * math.log(t / q) for t, q in pairs if t > 0)


def reaches(total, features, *parts):
    """Return whether the gradient of `total` reaches exactly these parts of the features."""
    return {part for part, found in gradients(total, features).items() if found} == set(parts)
