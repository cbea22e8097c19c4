"""DKD against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info, weights

from benchmark import methods

CONTEXT = make_context(tiny_info(), tiny_info(), epochs=240)


def softmax(row):
    exps = [math.exp(z) for z in row]
    return [e / sum(exps) for e in exps]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def expected(z_s, z_t, labels, temperature):
    target = other = 0.0
    for s, t, y in zip(z_s.tolist(), z_t.tolist(), labels.tolist(), strict=True):
        p_s, p_t = (softmax([z / temperature for z in row]) for row in (s, t))
        target += kl([p_t[y], 1 - p_t[y]], [p_s[y], 1 - p_s[y]])
        q_s, q_t = ([p / (1 - row[y]) for c, p in enumerate(row) if c != y] for row in (p_s, p_t))
        other += kl(q_t, q_s)
    return temperature**2 * target / len(labels), temperature**2 * other / len(labels)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value(temperature):
    student, teacher = fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1)
    step = make_step(CONTEXT, student, teacher)
    terms = build("dkd", CONTEXT, temperature=temperature).loss(step)
    target, other = expected(student.logits, teacher.logits, step.labels, temperature)
    assert terms["dkd_target"].item() == pytest.approx(target, rel=1e-10)
    assert terms["dkd_other"].item() == pytest.approx(other, rel=1e-10)


def test_kd_is_tckd_plus_nckd_weighted_by_the_teachers_other_classes():
    """The paper's identity: KD = TCKD + (1 - p_t,y) NCKD for each image."""
    context = make_context(tiny_info(), tiny_info())
    student, teacher = fake_features(CONTEXT.student, 1), fake_features(CONTEXT.teacher, 1, seed=1)
    step = make_step(context, student, teacher)
    terms = build("dkd", context).loss(step)
    others = 1 - torch.softmax(teacher.logits / 4, 1)[0, step.labels[0]]
    kd = build("kd", context, temperature=4.0).loss(step)["kd"]
    torch.testing.assert_close(kd, terms["dkd_target"] + others * terms["dkd_other"])


def test_sharp_logits_in_fp32_are_finite():
    info = CONTEXT.student
    student, teacher = (
        fake_features(info, seed=k).map(lambda t: (t * 300).float().requires_grad_()) for k in (0, 1)
    )
    terms = build("dkd", CONTEXT, dtype=torch.float32).loss(make_step(CONTEXT, student, teacher))
    total = terms["dkd_target"] + terms["dkd_other"]
    assert total.isfinite() and gradients(total, student)["logits"]


def test_gradient_reaches_the_students_logits_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    terms = build("dkd", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))
    for term in terms.values():
        assert [k for k, reached in gradients(term, student).items() if reached] == ["logits"]


@pytest.mark.parametrize(("epochs", "length"), [(240, 20), (120, 10), (15, 1), (2, 1)])
def test_warm_up_in_proportion(epochs, length):
    method = build("dkd", make_context(tiny_info(), tiny_info(), epochs=epochs), alpha=2.0, beta=3.0)
    for epoch in range(1, epochs + 1):
        method.start_epoch(epoch)
        factor = min(epoch / length, 1)
        assert weights(method) == pytest.approx({"dkd_target": 2 * factor, "dkd_other": 3 * factor})


@pytest.mark.parametrize(
    ("pair", "beta"),
    [
        ("resnet56:resnet20", 2.0),
        ("resnet110:resnet32", 2.0),
        ("wrn_40_2:wrn_16_2", 6.0),
        ("vgg13:MobileNetV2", 6.0),
        ("resnet32x4:resnet8x4", 8.0),
        ("ResNet50:MobileNetV2", 8.0),
        ("wrn_40_2:ShuffleV1", 8.0),
        ("wrn_40_2:resnet8x4", 6.0),  # no configuration: as the teacher's other pairs
    ],
)
def test_beta_is_the_pairs_unless_set(pair, beta):
    def used(spec):
        return spec.components[0].config.beta

    assert used(methods.parse("dkd", {}, *pair.split(":"))) == beta
    assert used(methods.parse("dkd", {"dkd.beta": 5.0}, *pair.split(":"))) == 5.0
