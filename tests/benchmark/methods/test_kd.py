"""KD against its formula in plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from kit import build, fake_features, gradients, make_context, make_step, tiny_info, weights

from benchmark import methods

CONTEXT = make_context(tiny_info(), tiny_info())


def softmax(row, temperature):
    exps = [math.exp(z / temperature) for z in row]
    return [e / sum(exps) for e in exps]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("batch", [2, 6])
def test_value(temperature, batch):
    student, teacher = fake_features(CONTEXT.student, batch), fake_features(CONTEXT.teacher, batch, seed=1)
    total = 0.0
    for z_s, z_t in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True):
        p, q = softmax(z_t, temperature), softmax(z_s, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / batch
    terms = build("kd", CONTEXT, temperature=temperature).loss(make_step(CONTEXT, student, teacher))
    assert terms["kd"].item() == pytest.approx(expected, rel=1e-12)


def test_gradient_reaches_the_students_logits_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    terms = build("kd", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))
    assert gradients(terms["kd"], student) == {
        "stem": False,
        "stages": False,
        "preacts": False,
        "embedding": False,
        "logits": True,
    }


def test_gradient_is_t_times_the_difference_of_softened_outputs():
    """d/dz_s of T^2 KL is T (softmax(z_s / T) - softmax(z_t / T)), divided by the batch."""
    student, teacher = (
        fake_features(CONTEXT.student, 3, requires_grad=True),
        fake_features(CONTEXT.teacher, 3, seed=1),
    )
    build("kd", CONTEXT, temperature=4.0).loss(make_step(CONTEXT, student, teacher))["kd"].backward()
    for grad, z_s, z_t in zip(
        student.logits.grad.tolist(), student.logits.tolist(), teacher.logits.tolist(), strict=True
    ):
        pairs = zip(softmax(z_s, 4.0), softmax(z_t, 4.0), strict=True)
        assert grad == pytest.approx([4.0 * (a - b) / 3 for a, b in pairs], rel=1e-9)


def test_a_perfect_student_has_no_loss():
    features = fake_features(CONTEXT.student)
    assert build("kd", CONTEXT).loss(make_step(CONTEXT, features, features))["kd"].item() == pytest.approx(
        0.0, abs=1e-14
    )


def test_weight_zero_is_not_computed():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("kd", CONTEXT, weight=0.0).loss(step) == {}


@pytest.mark.parametrize(("name", "ce", "weight"), [("kd", 0.1, 0.9), ("at+kd", 1.0, 1.0)])
def test_weights_alone_and_in_a_combination(name, ce, weight):
    spec = methods.parse(name)
    assert spec.ce == ce
    assert spec.components[-1].config.weight == weight


def test_total_alone_is_the_kd_row_of_the_benchmark():
    """The KD row: 0.1 CE + 0.9 T^2 KL."""
    student, teacher = fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1)
    step = make_step(CONTEXT, student, teacher)
    objective = methods.Objective(methods.parse("kd"), CONTEXT, lambda name: 0)
    total, terms = objective({"kd": step})
    expected = (
        0.1 * F.cross_entropy(student.logits, step.labels) + 0.9 * build("kd", CONTEXT).loss(step)["kd"]
    )
    torch.testing.assert_close(total, expected)
    assert set(terms) == {"ce", "kd"}


def test_warm_up_if_it_is_set():
    context = make_context(tiny_info(), tiny_info(), epochs=240)
    usual, warm = build("kd", context), build("kd", context, warmup=20)
    for epoch, factor in ((1, 0.05), (10, 0.5), (20, 1.0), (240, 1.0)):
        for method in (usual, warm):
            method.start_epoch(epoch)
        assert weights(usual) == {"kd": 0.9} and weights(warm)["kd"] == pytest.approx(0.9 * factor)


def test_the_key_of_a_run_without_warm_up_does_not_contain_it():
    settings = [
        methods.parse("kd", {"kd.warmup": warmup}).settings()["components"]["kd"] for warmup in (0, 20)
    ]
    assert settings[1] == {**settings[0], "warmup": 20}
