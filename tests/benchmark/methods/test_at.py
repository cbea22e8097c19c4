"""AT against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, stage_pairs, tiny_info

# equal sizes; teacher larger (3 -> 2, bins that overlap); the student's third stage has no partner
CONTEXT = make_context(tiny_info(((3, 4, 4), (4, 2, 2), (2, 2, 2))), tiny_info(((2, 4, 4), (5, 3, 3))))
LARGER_STUDENT = make_context(tiny_info(((3, 4, 4), (4, 4, 4))), tiny_info(((2, 2, 2), (5, 3, 3), (6, 2, 2))))


def attention(image):
    channels, height, width = len(image), len(image[0]), len(image[0][0])
    energy = [
        sum(image[c][y][x] ** 2 for c in range(channels)) / channels
        for y in range(height)
        for x in range(width)
    ]
    length = math.sqrt(sum(e * e for e in energy))
    return [e / length for e in energy]


@pytest.mark.parametrize("context", [CONTEXT, LARGER_STUDENT])
@pytest.mark.parametrize("batch", [2, 5])
def test_value(context, batch):
    student, teacher = fake_features(context.student, batch), fake_features(context.teacher, batch, seed=1)
    expected = 0.0
    for f_s, f_t in stage_pairs(student, teacher):
        squares = [
            (a - b) ** 2
            for s, t in zip(f_s, f_t, strict=True)
            for a, b in zip(attention(s), attention(t), strict=True)
        ]
        expected += sum(squares) / len(squares)
    assert build("at", context).loss(make_step(context, student, teacher))["at"].item() == pytest.approx(
        expected, rel=1e-12
    )


def test_gradient_reaches_the_paired_stages_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = build("at", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))[
        "at"
    ]
    assert gradients(loss, student) == {
        "stem": False,
        "stages": True,
        "preacts": False,
        "embedding": False,
        "logits": False,
    }
    loss.backward()
    assert [s.grad is not None and bool(s.grad.any()) for s in student.stages] == [True, True, False]


def test_gradient_check():
    student, teacher = (
        fake_features(CONTEXT.student, 2, requires_grad=True),
        fake_features(CONTEXT.teacher, 2, seed=1),
    )
    method = build("at", CONTEXT)

    def loss(*stages):
        return method.loss(make_step(CONTEXT, student.replace(stages=stages), teacher))["at"]

    assert torch.autograd.gradcheck(loss, student.stages)


def test_the_scale_of_a_map_does_not_matter():
    student, teacher = fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1)
    scaled = student.replace(stages=tuple(3 * s for s in student.stages))
    method = build("at", CONTEXT)
    loss, loss_of_scaled = (method.loss(make_step(CONTEXT, f, teacher))["at"] for f in (student, scaled))
    torch.testing.assert_close(loss, loss_of_scaled)


def test_a_dead_map_gives_finite_gradients():
    student = fake_features(CONTEXT.student).map(torch.zeros_like).map(lambda t: t.requires_grad_())
    loss = build("at", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))[
        "at"
    ]
    assert loss.isfinite()
    gradients(loss, student)


def test_no_modules_and_weight_zero_is_not_computed():
    assert not build("at", CONTEXT).state_dict()
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("at", CONTEXT, weight=0.0).loss(step) == {}
