"""FSP: the initialisation loss against its formula in plain loops; skipped if channels differ."""

import pytest
import torch
from kit import build, fake_features, make_context, make_step, pooled, tiny_info

import models
from benchmark import methods

CONTEXT = make_context(tiny_info(((3, 4, 4), (4, 2, 2))), tiny_info(((3, 8, 8), (4, 2, 2)), stem=(2, 8, 8)))


def matrix(first, second):
    """G[c][d] = mean over positions of first[c] * second[d], both pooled to the smaller size."""
    size = min(len(first[0]), len(second[0]))
    first, second = (
        [pooled(p, size, size) if len(p) > size else p for p in maps] for maps in (first, second)
    )
    return [
        [sum(a[y][x] * b[y][x] for y in range(size) for x in range(size)) / size**2 for b in second]
        for a in first
    ]


def expected_loss(student, teacher):
    total = 0.0
    for i in range(len(student) - 1):
        terms = []
        for n in range(len(student[0])):
            g_s, g_t = (matrix(f[i][n].tolist(), f[i + 1][n].tolist()) for f in (student, teacher))
            terms += [
                (a - b) ** 2
                for row_s, row_t in zip(g_s, g_t, strict=True)
                for a, b in zip(row_s, row_t, strict=True)
            ]
        total += sum(terms) / len(terms)
    return total


def test_value():
    student, teacher = fake_features(CONTEXT.student, 4), fake_features(CONTEXT.teacher, 4, seed=1)
    loss = build("fsp", CONTEXT).init_loss(make_step(CONTEXT, student, teacher))["fsp"]
    assert loss.item() == pytest.approx(expected_loss(student.maps, teacher.maps), rel=1e-12)


def test_gradients_reach_stem_and_stages():
    student = fake_features(CONTEXT.student, requires_grad=True)
    step = make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1))
    build("fsp", CONTEXT).init_loss(step)["fsp"].backward()
    assert all(m.grad is not None and bool(m.grad.any()) for m in student.maps)
    assert student.embedding.grad is None and student.logits.grad is None


@pytest.mark.parametrize(
    ("teacher", "student", "possible"),
    [
        ("wrn_40_2", "wrn_16_2", True),
        ("resnet56", "resnet20", True),
        ("vgg13", "vgg8", True),
        ("resnet32x4", "resnet8x4", True),
        ("wrn_40_2", "wrn_40_1", False),
        ("vgg13", "MobileNetV2", False),
        ("ResNet50", "vgg8", False),
        ("wrn_40_2", "ShuffleV1", False),
    ],
)
def test_pairs_with_unequal_channels_are_skipped_with_a_reason(teacher, student, possible):
    reason = methods.parse("fsp").skip(models.info(student, 100), models.info(teacher, 100))
    assert (reason is None) == possible and (possible or "equal channel counts" in reason)


def test_the_main_stage_has_no_term_and_needs_no_teacher():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("fsp", CONTEXT, dtype=torch.float64).loss(step) == {}
    assert not methods.parse("fsp").needs().passes
