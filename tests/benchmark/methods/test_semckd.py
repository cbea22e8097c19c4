"""SemCKD against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, pooled, tiny_info

CONTEXT = make_context(
    tiny_info(((3, 4, 4), (4, 2, 2))), tiny_info(((2, 3, 3), (3, 2, 2), (2, 1, 1))), batch_size=8
)


def embedded(maps, embed):
    """Unit vectors from the products of flattened maps `[B][n]`, padded with zeros to the layer's width."""
    first, second = embed.layers[0], embed.layers[2]
    out = []
    for a in maps:
        row = [sum(x * y for x, y in zip(a, b, strict=True)) for b in maps]
        row += [0.0] * (embed.width - len(row))
        for layer, relu in ((first, True), (second, False)):
            weight, bias = layer.weight.tolist(), layer.bias.tolist()
            row = [
                sum(w * x for w, x in zip(ws, row, strict=True)) + c
                for ws, c in zip(weight, bias, strict=True)
            ]
            row = [max(x, 0.0) for x in row] if relu else row
        norm = math.sqrt(sum(x * x for x in row))
        out.append([x / norm for x in row])
    return out


@pytest.mark.parametrize("batch", [8, 5])
def test_value(batch):
    """With a full batch and with the smaller last batch of an epoch."""
    student, teacher = fake_features(CONTEXT.student, batch), fake_features(CONTEXT.teacher, batch, seed=1)
    method = build("semckd", CONTEXT).eval()
    queries = [
        embedded(f.flatten(1).tolist(), e) for f, e in zip(student.stages, method.queries, strict=True)
    ]
    keys = [embedded(f.flatten(1).tolist(), e) for f, e in zip(teacher.stages, method.keys, strict=True)]
    total = 0.0
    for i in range(batch):
        for s, f_s in enumerate(student.stages):
            scores = [
                math.exp(sum(q * k for q, k in zip(queries[s][i], key[i], strict=True))) for key in keys
            ]
            for t, f_t in enumerate(teacher.stages):
                size = min(f_s.shape[2], f_t.shape[2])
                source, target = ([pooled(p, size, size) for p in f[i].tolist()] for f in (f_s, f_t))
                with torch.no_grad():
                    moved = method.regressors[s][t](torch.tensor([source], dtype=torch.float64))[0]
                difference = moved - torch.tensor(target, dtype=torch.float64)
                total += scores[t] / sum(scores) * difference.square().mean().item()
    loss = method.loss(make_step(CONTEXT, student, teacher))["semckd"].item()
    assert loss == pytest.approx(total / (batch * len(student.stages)), rel=1e-9)


def test_gradient_reaches_every_stage_and_module_and_not_the_teacher():
    student = fake_features(CONTEXT.student, 8, requires_grad=True)
    method = build("semckd", CONTEXT)
    loss = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, 8, seed=1)))["semckd"]
    assert [k for k, reached in gradients(loss, student).items() if reached] == ["stages"]
    loss.backward()
    assert all(f.grad.any() for f in student.stages)
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())


def test_attention_sums_to_one():
    method = build("semckd", CONTEXT)
    a = method.attention(fake_features(CONTEXT.student, 8).stages, fake_features(CONTEXT.teacher, 8).stages)
    assert a.shape == (8, 2, 3)
    torch.testing.assert_close(a.sum(2), torch.ones(8, 2, dtype=torch.float64))
