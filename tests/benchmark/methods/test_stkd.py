"""STKD against its formula in plain loops."""

import pytest
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import entropy, kl, onehot, reaches, softmax

from benchmark import methods

CONTEXT = make_context(tiny_info(), tiny_info())


def mixed_step(batch=5, **options):
    plain, mixed = (fake_features(CONTEXT.student, batch, seed=k, **options) for k in (1, 2))
    teacher = fake_features(CONTEXT.teacher, batch, seed=3)
    return mixed, teacher, make_step(CONTEXT, {"normal": plain, "mixed": mixed}, {"mixed": teacher})


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value(temperature):
    mixed, teacher, step = mixed_step()
    terms = build("stkd", CONTEXT, temperature=temperature).loss(step)
    z, labels = mixed.logits.tolist(), [onehot(y) for y in step.labels.tolist()]
    total = 0.0
    for i in range(5):
        share = (i + 0.5) / 5
        target = [share * a + (1 - share) * b for a, b in zip(labels[i], labels[(i + 1) % 5], strict=True)]
        total += entropy(target, z[i])
    assert terms["stkd_label"].item() == pytest.approx(total / 5, rel=1e-6)
    rows = [
        kl(softmax(t, temperature), s, temperature) for t, s in zip(teacher.logits.tolist(), z, strict=True)
    ]
    assert terms["stkd_kd"].item() == pytest.approx(temperature**2 * sum(rows) / 5, rel=1e-9)


def test_gradient_reaches_the_mixed_outputs():
    mixed, _, step = mixed_step(requires_grad=True)
    for value in build("stkd", CONTEXT).loss(step).values():
        assert reaches(value, mixed, "logits") and reaches(value, step.student)


def test_needs():
    needs = methods.parse("stkd").needs()
    assert [v.name for v in needs.views] == ["normal", "mixed"] and [v.name for v in needs.passes] == [
        "mixed"
    ]
    assert not methods.parse("stkd", {"stkd.kd": 0.0}).needs_teacher
    assert set(build("stkd", CONTEXT, label=0.0).loss(mixed_step()[2])) == {"stkd_kd"}
