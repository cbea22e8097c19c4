"""What an evaluation computes in which precision."""

from __future__ import annotations

import torch

import models
from benchmark import data
from benchmark.training.evaluate import logits
from benchmark.training.execution import Execution
from models import Features


def test_what_a_method_predicts_with_is_evaluated_in_float32() -> None:
    """As it is trained: a loss is computed outside of autocast. The network's pass is in bf16."""
    torch.manual_seed(0)
    net, execution = models.build("resnet8", 10).eval(), Execution("cpu", "bf16", threads=1)
    split, layer = data.load("digits").test.take(4), torch.nn.Linear(64, 10)

    def predict(features: Features) -> torch.Tensor:
        z: torch.Tensor = layer(features.embedding)
        return z

    z = logits(net, split, torch.zeros(3), torch.ones(3), execution, predict)
    x = split.images.permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            embedding = net.features(x).embedding.float()
        torch.testing.assert_close(z, embedding @ layer.weight.T + layer.bias)
