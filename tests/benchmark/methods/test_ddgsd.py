"""DDGSD against its formula in plain loops."""

import pytest
import torch.nn.functional as F
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import kl, reaches, softmax

from benchmark import methods

CONTEXT = make_context(tiny_info(), None)


def two_views(**options):
    first, second = (fake_features(CONTEXT.student, seed=k, **options) for k in (1, 2))
    return first, second, make_step(CONTEXT, {"normal": first, "second": second})


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value(temperature):
    first, second, step = two_views()
    terms = build("ddgsd", CONTEXT, temperature=temperature).loss(step)
    pairs = list(zip(first.logits.tolist(), second.logits.tolist(), strict=True))
    both = [
        kl(softmax(a, temperature), b, temperature) + kl(softmax(b, temperature), a, temperature)
        for a, b in pairs
    ]
    assert terms["ddgsd_mutual"].item() == pytest.approx(temperature**2 * sum(both) / 6, rel=1e-12)
    means = [[sum(column) / 6 for column in zip(*f.embedding.tolist(), strict=True)] for f in (first, second)]
    distance = sum((a - b) ** 2 for a, b in zip(*means, strict=True))
    assert terms["ddgsd_mmd"].item() == pytest.approx(distance, rel=1e-12)


def test_the_cross_entropy_is_the_mean_over_both_views():
    first, second, step = two_views()
    expected = (F.cross_entropy(first.logits, step.labels) + F.cross_entropy(second.logits, step.labels)) / 2
    assert build("ddgsd", CONTEXT).task_loss(step).item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradients_reach_both_views():
    first, second, step = two_views(requires_grad=True)
    terms = build("ddgsd", CONTEXT).loss(step)
    for features in (first, second):
        assert reaches(terms["ddgsd_mutual"], features, "logits") and reaches(
            terms["ddgsd_mmd"], features, "embedding"
        )
    terms["ddgsd_mutual"].backward()
    for grad, a, b in zip(
        first.logits.grad.tolist(), first.logits.tolist(), second.logits.tolist(), strict=True
    ):
        pairs = zip(softmax(a, 4.0), softmax(b, 4.0), strict=True)
        assert grad == pytest.approx([4.0 * (p - q) / 6 for p, q in pairs], rel=1e-9), (
            "the targets have no gradient"
        )


def test_needs():
    needs = methods.parse("ddgsd").needs()
    assert [v.name for v in needs.views] == ["normal", "second"] and needs.student == {"embedding", "logits"}
    assert methods.parse("ddgsd", {"ddgsd.mmd": 0.0}).needs().student == {"logits"}
    assert set(build("ddgsd", CONTEXT, mutual=0.0).loss(two_views()[2])) == {"ddgsd_mmd"}
