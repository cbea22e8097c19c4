"""DDGSD against its formula in plain loops."""

import pytest
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import entropy, kl, onehot, reaches, softmax

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
    means = [sum(map(sum, f.embedding.tolist())) / f.embedding.numel() for f in (first, second)]
    assert terms["ddgsd_mmd"].item() == pytest.approx((means[0] - means[1]) ** 2, rel=1e-9)


def test_the_cross_entropy_is_the_mean_over_both_views_halved():
    first, second, step = two_views(requires_grad=True)
    rows = [*zip(step.labels.tolist(), first.logits.tolist(), strict=True)]
    rows += zip(step.labels.tolist(), second.logits.tolist(), strict=True)
    expected = sum(entropy(onehot(y), z) for y, z in rows) / 12 / 2
    spec = methods.parse("ddgsd", {"ddgsd.mutual": 0.0, "ddgsd.mmd": 0.0})
    total, _ = methods.Objective(spec, CONTEXT, lambda name: 0)({"ddgsd": step})
    assert total.item() == pytest.approx(expected, rel=1e-12)
    total.backward()
    for features in (first, second):
        for grad, y, z in zip(
            features.logits.grad.tolist(), step.labels.tolist(), features.logits.tolist(), strict=True
        ):
            p = zip(softmax(z), onehot(y), strict=True)
            assert grad == pytest.approx([(q - t) / 24 for q, t in p], rel=1e-9)
    assert methods.parse("ddgsd+dlb").ce == 1.0


def test_gradient_of_the_discrepancy():
    first, second, step = two_views(requires_grad=True)
    build("ddgsd", CONTEXT).loss(step)["ddgsd_mmd"].backward()
    means = [sum(map(sum, f.embedding.tolist())) / f.embedding.numel() for f in (first, second)]
    expected = 2 * (means[0] - means[1]) / first.embedding.numel()
    for features, sign in ((first, 1), (second, -1)):
        flat = features.embedding.grad.flatten().tolist()
        assert flat == pytest.approx([sign * expected] * len(flat), rel=1e-9)


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
