"""ReviewKD against its formula in plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from kit import build, fake_features, gradients, make_context, make_step, pooled, tiny_info, weights

from benchmark import methods

CONTEXT = make_context(
    tiny_info(((3, 6, 6), (4, 3, 3)), embedding=5), tiny_info(((2, 5, 5), (3, 2, 2)), embedding=4), epochs=240
)


def conv(x, weight, bias=None, pad=0):
    """`[C][H][W]`, `[D][C][k][k]` -> `[D][H'][W']`."""
    k, height, width = len(weight[0][0]), len(x[0]), len(x[0][0])

    def at(c, r, q):
        return x[c][r][q] if 0 <= r < height and 0 <= q < width else 0.0

    def output(d, r, q):
        total = sum(
            weight[d][c][i][j] * at(c, r + i - pad, q + j - pad)
            for c in range(len(x))
            for i in range(k)
            for j in range(k)
        )
        return total + (bias[d] if bias else 0.0)

    rows, cols = height + 2 * pad - k + 1, width + 2 * pad - k + 1
    return [[[output(d, r, q) for q in range(cols)] for r in range(rows)] for d in range(len(weight))]


def norm(x):
    """A fresh batch norm in eval mode."""
    return [[[v / math.sqrt(1 + 1e-5) for v in row] for row in plane] for plane in x]


def resized(x, height, width):
    """Nearest neighbour: the source of row r is floor(r H / h)."""
    h, w = len(x[0]), len(x[0][0])
    return [[[p[r * h // height][q * w // width] for q in range(width)] for r in range(height)] for p in x]


def mean_square(a, b):
    diffs = [
        (x - y) ** 2
        for p, q in zip(a, b, strict=True)
        for r, s in zip(p, q, strict=True)
        for x, y in zip(r, s, strict=True)
    ]
    return sum(diffs) / len(diffs)


def hcl(a, b):
    total, weights, weight = mean_square(a, b), 1.0, 1.0
    for m in (4, 2, 1):
        if m < len(a[0]):
            weight /= 2
            weights += weight
            total += weight * mean_square([pooled(p, m, m) for p in a], [pooled(p, m, m) for p in b])
    return total / weights


def test_value():
    student, teacher = fake_features(CONTEXT.student, 2), fake_features(CONTEXT.teacher, 2, seed=1)
    method = build("reviewkd", CONTEXT).eval()
    total = 0.0
    for image in range(2):

        def levels(f, maps, image=image):
            return [f.embedding[image, :, None, None].tolist(), *(p[image].tolist() for p in reversed(maps))]

        residual = None
        student_levels, teacher_levels = levels(student, student.stages), levels(teacher, teacher.preacts)
        for fusion, f_s, f_t in zip(method.fusions, student_levels, teacher_levels, strict=True):
            x = norm(conv(f_s, fusion.reduce[0].weight.tolist()))
            if residual is not None:
                up = resized(residual, len(x[0]), len(x[0][0]))
                attention = fusion.attention[0]
                z = conv(x + up, attention.weight.tolist(), attention.bias.tolist())
                a, b = ([[1 / (1 + math.exp(-v)) for v in row] for row in plane] for plane in z)
                x = [
                    [
                        [x[c][r][q] * a[r][q] + up[c][r][q] * b[r][q] for q in range(len(a[0]))]
                        for r in range(len(a))
                    ]
                    for c in range(len(x))
                ]
            residual = resized(x, len(f_t[0]), len(f_t[0][0]))
            total += hcl(norm(conv(residual, fusion.out[0].weight.tolist(), pad=1)), f_t)
    terms = method.loss(make_step(CONTEXT, student, teacher))
    assert terms["reviewkd"].item() == pytest.approx(total / 2, rel=1e-10)


def expected(method, student, teacher):
    """The loss of a method in train mode, written with torch's functions."""

    def conv_norm(block, x, padding=0):
        weight, norm = block[0].weight, block[1]
        x = F.conv2d(x, weight, padding=padding)
        return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)

    total, residual = 0.0, None
    maps_s = (student.embedding[:, :, None, None], student.stages[1], student.stages[0])
    maps_t = (teacher.embedding[:, :, None, None], teacher.preacts[1], teacher.preacts[0])
    for fusion, f_s, f_t in zip(method.fusions, maps_s, maps_t, strict=True):
        x = conv_norm(fusion.reduce, f_s)
        if residual is not None:
            up = F.interpolate(residual, x.shape[2:])
            conv = fusion.attention[0]
            gate = F.conv2d(torch.cat([x, up], 1), conv.weight, conv.bias).sigmoid()
            x = gate[:, 0:1] * x + gate[:, 1:2] * up
        residual = F.interpolate(x, f_t.shape[2:])
        out = conv_norm(fusion.out, residual, padding=1)
        sizes = [m for m in (4, 2, 1) if m < f_t.shape[2]]
        pooled_terms = [
            (F.adaptive_avg_pool2d(out, m) - F.adaptive_avg_pool2d(f_t, m)).square().mean() for m in sizes
        ]
        terms = [(out - f_t).square().mean(), *pooled_terms]
        total = total + sum(t / 2**k for k, t in enumerate(terms)) / sum(2**-k for k in range(len(terms)))
    return total


def test_value_and_gradient_in_train_mode():
    """The student's maps after the ReLU, the teacher's before it."""
    student, teacher = (
        fake_features(CONTEXT.student, requires_grad=True),
        fake_features(CONTEXT.teacher, seed=1),
    )
    method = build("reviewkd", CONTEXT)
    read = [student.embedding, *student.stages, *method.parameters()]
    ours = method.loss(make_step(CONTEXT, student, teacher))["reviewkd"]
    theirs = expected(method, student, teacher)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0.0)
    for a, b in zip(torch.autograd.grad(ours, read), torch.autograd.grad(theirs, read), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_maps_of_a_wrn_student_are_read_as_they_are():
    context = make_context("wrn_16_2", "resnet14")
    with torch.no_grad():
        student = context.student_net.double().features(torch.randn(2, 3, 32, 32).double())
    assert any((p < 0).any() for p in student.stages)
    method = build("reviewkd", context)
    seen = []
    for fusion in method.fusions:
        fusion.reduce.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    method.loss(make_step(context, student, fake_features(context.teacher, 2)))
    assert all(a is b for a, b in zip(seen[1:], reversed(student.stages), strict=True))


@pytest.mark.parametrize(
    ("pair", "weight"),
    [
        ("resnet56:resnet20", 0.6),
        ("resnet110:resnet32", 1.0),
        ("resnet32x4:ShuffleV2", 8.0),
        ("resnet32x4:ShuffleV1", 5.0),
        ("wrn_40_2:wrn_16_2", 5.0),
    ],
)
def test_the_weight_is_the_pairs(pair, weight):
    assert methods.parse("reviewkd", {}, *pair.split(":")).components[0].config.weight == weight


def test_gradient_reaches_every_level_and_module_and_not_the_teacher():
    student = fake_features(CONTEXT.student, requires_grad=True)
    teacher = fake_features(CONTEXT.teacher, seed=1)
    method = build("reviewkd", CONTEXT)
    loss = method.loss(make_step(CONTEXT, student, teacher))["reviewkd"]
    assert [k for k, reached in gradients(loss, student).items() if reached] == ["stages", "embedding"]
    loss.backward()
    assert all(p.grad.any() for p in student.stages)
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())


def test_the_deepest_level_reaches_the_shallowest_through_the_fusion():
    student = fake_features(CONTEXT.student, requires_grad=True)
    method = build("reviewkd", CONTEXT)
    x, residual = student.embedding[:, :, None, None], None
    for fusion, f in zip(method.fusions, (x, *reversed(student.stages)), strict=True):
        out, residual = fusion(f, residual)
    assert torch.autograd.grad(out.square().sum(), student.embedding)[0].any()


@pytest.mark.parametrize(
    "pair", ["wrn_40_2:MobileNetV2", "vgg13:MobileNetV2", "resnet32x4:ShuffleV2", "ResNet50:vgg8"]
)
def test_different_architectures_have_a_fusion_for_each_level(pair):
    teacher, student = pair.split(":")
    import models

    context = make_context(models.info(student, 10), models.info(teacher, 10))
    shallow = min(len(context.student.stage_shapes), len(context.teacher.stage_shapes))
    assert len(build("reviewkd", context).fusions) == shallow + 1


def test_warm_up():
    method = build("reviewkd", CONTEXT)
    for epoch, factor in ((1, 0.05), (10, 0.5), (20, 1.0), (240, 1.0)):
        method.start_epoch(epoch)
        assert weights(method)["reviewkd"] == pytest.approx(5 * factor)
