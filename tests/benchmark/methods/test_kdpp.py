"""ND (KD++) against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info

from benchmark import methods
from benchmark.spec import matrix

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=5), num_classes=3)
WIDER = make_context(tiny_info(embedding=5), tiny_info(embedding=7), num_classes=3)


def length(v):
    return math.sqrt(sum(x * x for x in v))


def test_value_over_two_steps():
    """In the second step the class means run over both batches."""
    method = build("kdpp", CONTEXT)
    by_class = {}
    for k in range(2):
        student, teacher = (fake_features(CONTEXT.student, seed=2 * k + j) for j in (0, 1))
        step = make_step(CONTEXT, student, teacher)
        for f, y in zip(teacher.embedding.tolist(), step.labels.tolist(), strict=True):
            by_class.setdefault(y, []).append(f)
        total = 0.0
        rows = zip(student.embedding.tolist(), teacher.embedding.tolist(), step.labels.tolist(), strict=True)
        for f_s, f_t, y in rows:
            mean = [sum(column) / len(by_class[y]) for column in zip(*by_class[y], strict=True)]
            direction = [x / length(mean) for x in mean]
            dot = sum(a * b for a, b in zip(f_s, direction, strict=True))
            total += 1 - dot / max(length(f_s), length(f_t))
        assert method.loss(step)["kdpp"].item() == pytest.approx(total / len(step.labels), rel=1e-10)


def test_value_and_gradient_with_the_embedding_head():
    """The head is batch norm, dropout by half with draws of the step's generator, and a linear layer."""
    student, teacher = fake_features(WIDER.student, requires_grad=True), fake_features(WIDER.teacher, seed=1)
    step, method = make_step(WIDER, student, teacher), build("kdpp", WIDER)
    ours = method.loss(step)["kdpp"]
    kept = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) >= 0.5
    x, norm = student.embedding, method.batch_norm
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
    f = (2 * x * kept) @ method.linear.weight.T + method.linear.bias
    theirs = 0.0
    for i, y in enumerate(step.labels):
        mean = teacher.embedding[step.labels == y].mean(0)
        theirs = theirs + 1 - f[i] @ (mean / mean.norm()) / max(f[i].norm(), teacher.embedding[i].norm())
    theirs = theirs / 6
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0.0)
    read = [student.embedding, *method.parameters()]
    for a, b in zip(torch.autograd.grad(ours, read), torch.autograd.grad(theirs, read), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_head_is_built_in_this_order_and_drops_nothing_in_evaluation():
    method = build("kdpp", WIDER).eval()
    assert [type(m).__name__ for m in method.children()] == ["BatchNorm1d", "Linear"]
    x = torch.randn(4, 5, dtype=torch.float64)
    first, second = (method.embed(x, torch.Generator().manual_seed(k)) for k in (0, 1))
    assert torch.equal(first, second) and first.shape == (4, 7)


@pytest.mark.parametrize(
    ("pair", "kd", "dkd"),
    [
        ("resnet56:resnet20", (1.0, 2.0), (2.5, 4.0, 3.5)),
        ("resnet32x4:resnet8x4", (3.5, 2.0), (2.0, 8.0, 0.5)),
        ("wrn_40_2:wrn_40_1", (1.0, 1.5), (1.0, 6.0, 1.0)),
        ("ResNet50:MobileNetV2", (3.0, 0.5), (0.5, 8.0, 1.0)),
        ("resnet32x4:ShuffleV1", (2.5, 1.5), (0.5, 8.0, 4.0)),
        ("resnet32x4:ShuffleV2", (4.0, 0.5), (0.5, 6.0, 0.5)),
    ],
)
def test_weights_of_kdpp_and_dkdpp_are_the_pairs(pair, kd, dkd):
    def configs(text):
        spec = methods.parse(text, {}, *pair.split(":"))
        assert spec.ce == 1.0
        return {c.method.name: c.config for c in spec.components}

    plus = configs("kd+kdpp")
    assert (plus["kd"].weight, plus["kdpp"].weight) == kd
    assert (plus["kd"].temperature, plus["kd"].warmup) == (4.0, 20)
    plus = configs("dkd+kdpp")
    assert (plus["dkd"].alpha, plus["dkd"].beta, plus["kdpp"].weight) == dkd
    assert configs("dist+kdpp")["kdpp"].weight == 2.0, "not in the authors' scripts"


def test_the_rows_have_the_recipe_of_the_released_example():
    cells = matrix.expand(matrix.load_table("kdpp-table"), "paper", seeds=[0]).cells
    for cell in cells:
        recipe, plus = cell.runs[0].recipe, cell.row.label.endswith("++")
        small = cell.student in ("ShuffleV1", "ShuffleV2", "MobileNetV2")
        assert recipe.nesterov == plus
        assert cell.row.label == "Teacher" or recipe.batch_size == (128 if plus else 64)
        if plus:
            assert recipe.lr == (0.02 if small else 0.1) and recipe.epochs == 240


@pytest.mark.parametrize("context", [CONTEXT, WIDER])
def test_gradient_reaches_the_embedding_and_what_connects_it(context):
    student = fake_features(context.student, requires_grad=True)
    method = build("kdpp", context)
    loss = method.loss(make_step(context, student, fake_features(context.teacher, seed=1)))["kdpp"]
    assert [k for k, reached in gradients(loss, student).items() if reached] == ["embedding"]
    loss.backward()
    assert all(p.grad is not None for p in method.parameters())
    assert bool(list(method.parameters())) == (context is WIDER)


def test_a_student_in_the_class_direction_with_the_teachers_norm_costs_nothing():
    teacher = fake_features(CONTEXT.teacher)
    labels = torch.zeros(6, dtype=torch.int64)
    direction = teacher.embedding.sum(0) / teacher.embedding.sum(0).norm()
    longer = teacher.embedding.norm(dim=1, keepdim=True) * 1.5
    step = make_step(CONTEXT, teacher.replace(embedding=direction * longer), teacher, labels=labels)
    assert build("kdpp", CONTEXT).loss(step)["kdpp"].item() == pytest.approx(0.0, abs=1e-12)
