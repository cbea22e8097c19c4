"""IUSP against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, make_context, make_step, pooled, tiny_info
from selfkd_kit import reaches

from benchmark import methods

CONTEXT = make_context(tiny_info(stages=((3, 4, 4), (4, 3, 2))), tiny_info(stages=((3, 4, 4), (5, 6, 4))))


def similarities(image):
    """One image's planes `[C][H][W]` -> row-normalised products of its positions `[H*W][H*W]`."""
    frames = list(zip(*([v for row in plane for v in row] for plane in image), strict=True))
    products = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in frames] for x in frames]
    # a position where all channels are 0 has the norm 0
    return [[v / (math.sqrt(sum(w * w for w in row)) or 1) for v in row] for row in products]


def test_value():
    student, teacher = fake_features(CONTEXT.student, 3), fake_features(CONTEXT.teacher, 3, seed=1)
    total = 0.0
    for s, t in zip(student.stages[-1].tolist(), teacher.stages[-1].tolist(), strict=True):
        g_s, g_t = similarities(s), similarities([pooled(plane, 3, 2) for plane in t])
        assert len(g_s) == len(g_t) == 6
        total += (
            sum((a - b) ** 2 for x, y in zip(g_s, g_t, strict=True) for a, b in zip(x, y, strict=True)) / 36
        )
    loss = build("iusp", CONTEXT).loss(make_step(CONTEXT, student, teacher))["iusp"]
    assert loss.item() == pytest.approx(total / 3, rel=1e-9)


def test_frames_of_a_tagger():
    """A tagger's last map has one column and 32 rows: 32 frames, which are compared within each clip."""
    context = make_context("crnn_16", "crnn_64")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    student, teacher = (
        net.double().eval().features(images.double()) for net in (context.student_net, context.teacher_net)
    )
    total = 0.0
    for s, t in zip(student.stages[-1].tolist(), teacher.stages[-1].tolist(), strict=True):
        g_s, g_t = similarities(s), similarities(t)
        assert len(g_s) == len(g_t) == 32
        total += (
            sum((a - b) ** 2 for x, y in zip(g_s, g_t, strict=True) for a, b in zip(x, y, strict=True))
            / 32**2
        )
    loss = build("iusp", context).loss(make_step(context, student, teacher))["iusp"]
    assert loss.item() == pytest.approx(total / 3, rel=1e-9) and loss > 0


def test_sound_and_image_networks_are_not_compared():
    method = methods.get("iusp")
    sound, image = tiny_info(stages=((3, 4, 4), (4, 32, 1))), tiny_info()
    assert method.skip(method.Config(), sound, sound) is None
    assert method.skip(method.Config(), image, image) is None
    for pair in ((sound, image), (image, sound)):
        assert "frames" in method.skip(method.Config(), *pair)


def test_gradient_reaches_the_last_map_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = build("iusp", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))[
        "iusp"
    ]
    assert reaches(loss, student, "stages")
    loss.backward()
    assert student.stages[0].grad is None and student.stages[1].grad.any()


def test_a_perfect_student_has_no_loss_and_weight_zero_is_not_computed():
    features = fake_features(CONTEXT.student)
    step = make_step(CONTEXT, features, features)
    assert build("iusp", CONTEXT).loss(step)["iusp"].item() == 0
    assert build("iusp", CONTEXT, weight=0.0).loss(step) == {}
