"""A classifier that is trained beside a method without labels, to monitor it.

The cross-entropy reads the embedding without gradient. So the labels reach the classifier alone: all other
weights of the student are, bit for bit, those of a training without labels. The top-1 in curves and records
is then that of a linear classifier trained alongside. A linear probe, which is fitted to the finished
network, is another measure and usually higher.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods.base import MethodContext, Step

LABELS = ("student", "classifier")
"""What the cross-entropy with the labels trains: the whole student, or its classifier alone."""


class Monitor:
    """The student's classifier, without being part of a method's state."""

    def __init__(self, context: MethodContext) -> None:
        self._classifier: Callable[[], nn.Linear] | None = (
            None if context.student_net is None else context.student_net.linear_head
        )

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy of the classifier, on the embedding without gradient."""
        assert self._classifier is not None
        classifier = self._classifier()
        logits = F.linear(step.student.embedding.detach(), classifier.weight, classifier.bias)
        return F.cross_entropy(logits, step.labels)
