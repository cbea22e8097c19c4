"""NST against its formula in plain loops, for both ways of computing it."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, stage_pairs, tiny_info

# equal sizes; teacher larger (3 -> 2); the student's third stage has no partner
MORE_POSITIONS = make_context(tiny_info(((3, 4, 4), (2, 3, 3), (2, 2, 2))), tiny_info(((2, 4, 4), (3, 4, 4))))
MORE_CHANNELS = make_context(
    tiny_info(((9, 4, 4), (7, 1, 1))), tiny_info(((11, 2, 2), (12, 2, 2), (6, 2, 2)))
)
CONTEXTS = [MORE_POSITIONS, MORE_CHANNELS]


def channels(image):
    """Each channel's map as a unit vector; a channel of zeros stays zero."""
    flat = [[v for line in channel for v in line] for channel in image]
    lengths = [math.sqrt(sum(v * v for v in row)) for row in flat]
    return [[v / n if n else 0.0 for v in row] for row, n in zip(flat, lengths, strict=True)]


def kernel(a, b):
    """Mean over batch and pairs of channels of the squared inner products; `[B][C][H*W]`."""
    values = [
        sum(p * q for p, q in zip(row_a, row_b, strict=True)) ** 2
        for image_a, image_b in zip(a, b, strict=True)
        for row_a in image_a
        for row_b in image_b
    ]
    return sum(values) / len(values)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("batch", [2, 4])
def test_value(context, batch):
    student, teacher = fake_features(context.student, batch), fake_features(context.teacher, batch, seed=1)
    expected = 0.0
    for f_s, f_t in stage_pairs(student, teacher):
        s, t = [channels(image) for image in f_s], [channels(image) for image in f_t]
        expected += kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
    loss = build("nst", context).loss(make_step(context, student, teacher))["nst"]
    assert loss.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("context", CONTEXTS)
def test_memory_format_does_not_matter(context):
    student, teacher = fake_features(context.student), fake_features(context.teacher, seed=1)
    channels_last = student.replace(
        stages=tuple(s.to(memory_format=torch.channels_last) for s in student.stages)
    )
    method = build("nst", context)
    losses = [method.loss(make_step(context, f, teacher))["nst"] for f in (student, channels_last)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("context", CONTEXTS)
def test_gradient_reaches_the_paired_stages_alone(context):
    student = fake_features(context.student, requires_grad=True)
    loss = build("nst", context).loss(make_step(context, student, fake_features(context.teacher, seed=1)))[
        "nst"
    ]
    assert gradients(loss, student) == {
        "stem": False,
        "stages": True,
        "preacts": False,
        "embedding": False,
        "logits": False,
    }
    loss.backward()
    paired = [k < len(context.teacher.stage_shapes) for k in range(len(student.stages))]
    assert [s.grad is not None and bool(s.grad.any()) for s in student.stages] == paired


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_dead_map_gives_finite_gradients(context):
    student = fake_features(context.student).map(torch.zeros_like).map(lambda t: t.requires_grad_())
    loss = build("nst", context).loss(make_step(context, student, fake_features(context.teacher, seed=1)))[
        "nst"
    ]
    assert loss.isfinite()
    gradients(loss, student)


def test_a_perfect_student_has_no_loss():
    features = fake_features(MORE_POSITIONS.student)
    context = make_context(MORE_POSITIONS.student, MORE_POSITIONS.student)
    assert build("nst", context).loss(make_step(context, features, features))["nst"].item() == pytest.approx(
        0.0, abs=1e-14
    )


def test_no_modules_and_weight_zero_is_not_computed():
    assert not build("nst", MORE_POSITIONS).state_dict()
    step = make_step(
        MORE_POSITIONS, fake_features(MORE_POSITIONS.student), fake_features(MORE_POSITIONS.teacher)
    )
    assert build("nst", MORE_POSITIONS, weight=0.0).loss(step) == {}
