"""CC against its formula in plain loops."""

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info

from benchmark import methods
from benchmark.errors import InputError
from models import Features

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=7))


def linear(layer, row):
    return [
        sum(w * x for w, x in zip(weights, row, strict=True)) + b
        for weights, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


@pytest.mark.parametrize("batch", [2, 6])
def test_value(batch):
    method = build("cc", CONTEXT, dim=4)
    student, teacher = fake_features(CONTEXT.student, batch), fake_features(CONTEXT.teacher, batch, seed=1)
    e_s = [linear(method.embed_s, row) for row in student.embedding.tolist()]
    e_t = [linear(method.embed_t, row) for row in teacher.embedding.tolist()]
    expected = sum(
        abs(e_s[i][d] - e_t[i][d]) * abs(e_s[i + 1][d] - e_t[i + 1][d])
        for i in range(batch - 1)
        for d in range(4)
    ) / (batch - 1)
    loss = method.loss(make_step(CONTEXT, student, teacher))["cc"]
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_reaches_the_embedding_and_both_linear_layers():
    method = build("cc", CONTEXT)
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))["cc"]
    assert gradients(loss, student) == {
        "stem": False,
        "stages": False,
        "preacts": False,
        "embedding": True,
        "logits": False,
    }
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())
    assert {name for name, _ in method.named_parameters()} == {
        "embed_s.weight",
        "embed_s.bias",
        "embed_t.weight",
        "embed_t.bias",
    }


def test_size_of_the_embeddings():
    method = build("cc", CONTEXT)
    assert method.embed_s.weight.shape == (128, 5)
    assert method.embed_t.weight.shape == (128, 7)


def test_size_zero_is_an_input_error():
    with pytest.raises(InputError, match=r"cc.dim=0 .* allowed: at least 1"):
        methods.parse("cc", {"cc.dim": 0})


def test_weight_zero_is_not_computed():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("cc", CONTEXT, weight=0.0).loss(step) == {}


def test_identical_embeddings_have_finite_gradients():
    """The absolute value has no derivative at zero."""
    method = build("cc", CONTEXT)
    with torch.no_grad():
        for p in method.parameters():
            p.zero_()
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher)))["cc"]
    assert loss.item() == 0.0
    gradients(loss, student)


@pytest.mark.parametrize(("share", "stable"), [(0.9, True), (1.1, False)])
def test_sgd_is_stable_up_to_the_learning_rate_of_the_docstring(share, stable):
    """With equal images, deltas are linear in both layers; each bias counts as a feature of 1."""
    method = build("cc", CONTEXT, dim=4)
    both = [fake_features(info, 4, seed=seed) for seed, info in enumerate((CONTEXT.student, CONTEXT.teacher))]
    both = [Features(embedding=f.embedding[:1].expand(4, -1), logits=f.logits) for f in both]
    square = sum(float((f.embedding[0] ** 2).sum()) + 1 for f in both)
    step = make_step(CONTEXT, *both)
    lr = share * 2 * (1 + 0.9) / (2 * method.config.weight * square)
    optimizer = torch.optim.SGD(method.parameters(), lr=lr, momentum=0.9)
    values = []
    for _ in range(150):
        loss = method.loss(step)["cc"]
        optimizer.zero_grad()
        (method.config.weight * loss).backward()
        optimizer.step()
        values.append(loss.item())
    assert (values[-1] < values[0]) == stable and (values[-1] > 100 * values[0]) != stable
