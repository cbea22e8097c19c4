"""MLLD against its formula in plain loops; its strong view."""

import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from kit import build, fake_features, gradients, make_context, make_step, raw_batch, tiny_info

from benchmark.methods.mlld import STRONG, reshape, retone

CONTEXT = make_context(tiny_info(), tiny_info())


def softmax(row, temperature):
    exps = [math.exp(z / temperature) for z in row]
    return [e / sum(exps) for e in exps]


def product(rows):
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def level(name, p_s, p_t, t, mask):
    if name == "instance":
        kls = [
            sum(a * math.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in zip(p_t, p_s, strict=True)
        ]
        return t**2 * sum(k * m for k, m in zip(kls, mask, strict=True)) / len(kls)
    if name == "class":
        p_s, p_t = list(zip(*p_s, strict=True)), list(zip(*p_t, strict=True))
    a, b = product(p_s), product(p_t)
    n = len(a)
    return sum((a[i][j] - b[i][j]) ** 2 * mask[j] for i in range(n) for j in range(n)) / n**3


def step(batch=5, **kwargs):
    students = {
        v: fake_features(CONTEXT.student, batch, seed=k, **kwargs) for k, v in enumerate(("normal", "strong"))
    }
    teachers = {
        v: fake_features(CONTEXT.teacher, batch, seed=k + 2) for k, v in enumerate(("normal", "strong"))
    }
    return make_step(CONTEXT, students, teachers)


@pytest.mark.parametrize("batch", [4, 5])
def test_value(batch):
    the_step = step(batch)
    terms = build("mlld", CONTEXT, temperature=4.0).loss(the_step)
    p = [softmax(row, 1.0) for row in the_step.teacher.logits.tolist()]
    sure, total = [max(row) for row in p], [sum(column) for column in zip(*p, strict=True)]
    unsure, rare = ([float(x <= statistics.median(xs)) for x in xs] for xs in (sure, total))
    for name in ("instance", "class", "batch"):
        expected = 0.0
        for t in (4.0, 2.0, 3.0, 5.0, 6.0):
            for view, mask in (("normal", rare if name == "class" else unsure), ("strong", [1.0] * 10)):
                p_s, p_t = (
                    [softmax(row, t) for row in n[view].logits.tolist()]
                    for n in (the_step.students, the_step.teachers)
                )
                n = len(p_s[0]) if name == "class" else len(p_s)
                expected += level(name, p_s, p_t, t, mask[:n])
        assert terms[f"mlld_{name}"].item() == pytest.approx(expected, rel=1e-8), name
    assert terms["mlld_strong"].item() == pytest.approx(
        F.cross_entropy(the_step.students["strong"].logits, the_step.labels).item()
    )


def test_gradient_reaches_the_students_logits_of_both_views_alone():
    the_step = step(requires_grad=True)
    for term, value in build("mlld", CONTEXT).loss(the_step).items():
        for view, features in the_step.students.items():
            reached = [part for part, is_reached in gradients(value, features).items() if is_reached]
            assert reached == ([] if (term, view) == ("mlld_strong", "normal") else ["logits"])


def test_the_strong_view_has_normalised_images_and_depends_on_its_draws_alone():
    raw = raw_batch(CONTEXT, torch.arange(40))
    draws = STRONG.draw(40, torch.Generator().manual_seed(0))
    strong = STRONG.make(raw, draws, draws)
    assert strong.shape == (40, 3, 32, 32) and strong.isfinite().all()
    assert torch.equal(strong, STRONG.make(raw, draws, draws))
    pixels = (strong.permute(0, 2, 3, 1) * raw.std + raw.mean) * 255
    assert pixels.min() > -0.01 and pixels.max() < 255.01


def test_geometric_changes():
    images = torch.rand(6, 32, 32, 3)
    moved = reshape(images, torch.arange(6), torch.ones(6))
    assert torch.equal(moved[0], images[0])
    assert torch.equal(moved[4, :, :-5], images[4, :, 5:]), "a shift by 0.3 of half the width is 5 columns"
    assert torch.equal(moved[5, :-5], images[5, 5:])
    assert all(not torch.equal(moved[k], images[k]) for k in range(1, 6))


def test_changes_of_tone():
    images = torch.full((6, 2, 2, 3), 200.0)
    images[:, 0] = 100.0
    toned = retone(images, torch.arange(6), torch.tensor([1.0, 1, -1, 1, 1, 1]))
    tops, lows = toned[:, 1, 0, 0].tolist(), toned[:, 0, 0, 0].tolist()
    assert tops == pytest.approx([200, 260, 185, 200, 55, 200])
    assert lows == pytest.approx([100, 130, 115, 100, 100, 96])
