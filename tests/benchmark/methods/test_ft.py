"""FT against its formulas in plain loops: the reconstruction (initialisation stage) and the factor term."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, pooled, tiny_info

from benchmark import methods

CONTEXT = make_context(tiny_info(((3, 4, 4), (3, 4, 4))), tiny_info(((2, 4, 4), (6, 2, 2))))


def attention(maps):
    """The mean over the channels of the squares, flattened and L2-normalised: `[C][H][W]` -> `[H*W]`."""
    size = len(maps[0])
    flat = [sum(c[y][x] ** 2 for c in maps) / len(maps) for y in range(size) for x in range(size)]
    norm = math.sqrt(sum(v * v for v in flat))
    return [v / norm for v in flat]


def test_value_of_the_main_stage():
    method = build("ft", CONTEXT)
    student, teacher = fake_features(CONTEXT.student, 4), fake_features(CONTEXT.teacher, 4, seed=1)
    loss = method.loss(make_step(CONTEXT, student, teacher))["ft"]
    f_s = method.translator(student.stages[-1]).tolist()
    f_t = method.paraphraser["encoder"](teacher.stages[-1]).tolist()
    differences = []
    for image_s, image_t in zip(f_s, f_t, strict=True):
        q_s, q_t = attention([pooled(plane, 2, 2) for plane in image_s]), attention(image_t)
        differences += [abs(x - y) for x, y in zip(q_s, q_t, strict=True)]
    assert loss.item() == pytest.approx(sum(differences) / len(differences), rel=1e-12)


def test_value_of_the_initialisation_stage():
    method = build("ft", CONTEXT)
    teacher = fake_features(CONTEXT.teacher, 4, seed=1)
    loss = method.init_loss(make_step(CONTEXT, None, teacher))["ft_reconstruction"]
    rebuilt = method.paraphraser["decoder"](method.paraphraser["encoder"](teacher.stages[-1]))
    pairs = list(zip(rebuilt.flatten().tolist(), teacher.stages[-1].flatten().tolist(), strict=True))
    assert loss.item() == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / len(pairs), rel=1e-12)


def test_layers_of_paraphraser_and_translator():
    method = build("ft", CONTEXT)
    shapes = [tuple(m.weight.shape) for m in method.paraphraser.modules() if hasattr(m, "weight")]
    assert shapes == [(6, 6, 3, 3), (3, 6, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 6, 3, 3), (6, 6, 3, 3)]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in method.paraphraser.modules())
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in method.translator.modules()) == 3
    assert all(m.negative_slope == 0.1 for m in method.modules() if isinstance(m, torch.nn.LeakyReLU))


def test_gradients():
    method = build("ft", CONTEXT)
    init_step = make_step(CONTEXT, None, fake_features(CONTEXT.teacher, seed=1))
    method.init_loss(init_step)["ft_reconstruction"].backward()
    assert all(p.grad is not None for p in method.paraphraser.parameters())
    assert all(p.grad is None for p in method.translator.parameters())
    assert list(method.init_modules(None)) == [method.paraphraser]
    method.after_init()
    method.zero_grad()
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))["ft"]
    assert gradients(loss, student) == {
        "stem": False,
        "stages": True,
        "preacts": False,
        "embedding": False,
        "logits": False,
    }
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.paraphraser.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in method.translator.parameters())


def test_learning_rate_of_the_initialisation_stage():
    method = build("ft", CONTEXT)
    assert [method.init_lr(n, 0.05) for n in ("resnet20", "wrn_16_2", "vgg8")] == [0.01, 0.01, 0.05]
    assert method.init_lr("ShuffleV1", 0.01) == 0.01


def test_the_initialisation_stage_makes_no_student_pass():
    assert not methods.get("ft").init_needs(build("ft", CONTEXT).config).student


def test_weight_zero_is_not_computed():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("ft", CONTEXT, weight=0.0).loss(step) == {}
