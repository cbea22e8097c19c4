"""ReviewKD against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, pooled, tiny_info, weights

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

        def levels(f, image=image):
            return [
                f.embedding[image, :, None, None].tolist(),
                *(p[image].tolist() for p in reversed(f.preacts)),
            ]

        residual = None
        for fusion, f_s, f_t in zip(method.fusions, levels(student), levels(teacher), strict=True):
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


def test_gradient_reaches_every_level_and_module_and_not_the_teacher():
    student = fake_features(CONTEXT.student, requires_grad=True)
    teacher = fake_features(CONTEXT.teacher, seed=1)
    method = build("reviewkd", CONTEXT)
    loss = method.loss(make_step(CONTEXT, student, teacher))["reviewkd"]
    assert [k for k, reached in gradients(loss, student).items() if reached] == ["preacts", "embedding"]
    loss.backward()
    assert all(p.grad.any() for p in student.preacts)
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())


def test_the_deepest_level_reaches_the_shallowest_through_the_fusion():
    student = fake_features(CONTEXT.student, requires_grad=True)
    method = build("reviewkd", CONTEXT)
    x, residual = student.embedding[:, :, None, None], None
    for fusion, f in zip(method.fusions, (x, *reversed(student.preacts)), strict=True):
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
