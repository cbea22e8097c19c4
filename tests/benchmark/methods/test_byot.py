"""BYOT against its formula in plain loops."""

import pytest
import torch
from kit import build, fake_features, make_context, make_step, tiny_info, weights
from selfkd_kit import entropy, kl, onehot, reaches, softmax

from benchmark import methods

CONTEXT = make_context(tiny_info(stages=((3, 8, 8), (4, 4, 4), (5, 2, 2))), None)


def outputs(method, student):
    """The embeddings and the logits of the earlier classifiers."""
    embeddings = [b(x) for b, x in zip(method.bottlenecks, student.stages, strict=False)]
    return embeddings, [c(e) for c, e in zip(method.classifiers, embeddings, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_value(temperature):
    student = fake_features(CONTEXT.student)
    step = make_step(CONTEXT, student)
    method = build("byot", CONTEXT, temperature=temperature)
    terms = method.loss(step)
    embeddings, classified = outputs(method, student)
    assert len(classified) == 2
    early = soft = hint = 0.0
    for e, c in zip(embeddings, classified, strict=True):
        for row, z, label in zip(c.tolist(), student.logits.tolist(), step.labels.tolist(), strict=True):
            early += entropy(onehot(label), row) / 6
            soft += temperature**2 * kl(softmax(z, temperature), row, temperature) / 6
        for row, deepest in zip(e.tolist(), student.embedding.tolist(), strict=True):
            hint += sum((a - b) ** 2 for a, b in zip(row, deepest, strict=True) if a > 0 or b > 0)
    assert terms["byot_early"].item() == pytest.approx(early, rel=1e-12)
    assert terms["byot_soft"].item() == pytest.approx(soft, rel=1e-12)
    assert terms["byot_hint"].item() == pytest.approx(hint, rel=1e-12)


def test_bottlenecks_bring_every_stage_to_the_embedding():
    method = build("byot", CONTEXT)
    kernels = [[m.kernel_size for m in b if isinstance(m, torch.nn.Conv2d)] for b in method.bottlenecks]
    assert kernels == [[(1, 1), (4, 4), (1, 1)], [(1, 1), (2, 2), (1, 1)]]
    embeddings, _ = outputs(method, fake_features(CONTEXT.student))
    assert [e.shape for e in embeddings] == [(6, 5), (6, 5)]


def test_gradients_reach_the_stages_and_not_the_deepest_outputs():
    student = fake_features(CONTEXT.student, requires_grad=True)
    terms = build("byot", CONTEXT).loss(make_step(CONTEXT, student))
    assert all(reaches(value, student, "stages") for value in terms.values())
    sum(terms.values()).backward()
    assert student.stages[0].grad.any() and student.stages[1].grad.any() and student.stages[2].grad is None


def test_weights_and_skip():
    assert methods.parse("byot").ce == 0.9 and methods.parse("byot+dsr").ce == 1.0
    assert weights(build("byot", CONTEXT)) == {"byot_early": 0.9, "byot_soft": 0.1, "byot_hint": 1e-6}
    assert "embedding" not in methods.parse("byot", {"byot.hint": 0.0}).needs().student
    assert "stage" in methods.get("byot").skip(None, tiny_info(stages=((3, 4, 4),)), None)


def test_the_convolutions_of_the_bottlenecks_start_as_the_authors_do():
    """He's rule with the fan-out: variance 2 / (k^2 output channels)."""
    context = make_context(tiny_info(stages=((16, 8, 8), (32, 4, 4), (64, 2, 2)), embedding=256), None)
    convolutions = [m for m in build("byot", context).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 6
    for m in convolutions:
        expected = 2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels)
        assert m.weight.var().item() == pytest.approx(expected, rel=0.2) and m.bias is None
