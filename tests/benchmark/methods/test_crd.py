"""CRD against its formula in plain loops: scores, both banks, Z from the first batch, updates of the banks.

Also: how the negatives are drawn.
"""

import math

import pytest
import torch
from kit import build, fake_features, make_context, make_step, tiny_info
from scipy import stats

from benchmark.methods.crd import Negatives, nce_loss, scores, scores_by_rows

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=7), num_classes=4, n=40)
SMALL = {"negatives": 12, "dim": 3}


def unit(v):
    norm = math.sqrt(sum(x * x for x in v))
    return [x / norm for x in v]


def expected_loss(anchors, bank, index, z, tau, n):
    """(loss, z) of one direction, in plain loops. z: None in the first batch."""
    p = [
        [math.exp(sum(a * b for a, b in zip(v, bank[j], strict=True)) / tau) for j in row]
        for v, row in zip(anchors, index, strict=True)
    ]
    if z is None:
        z = sum(map(sum, p)) / sum(map(len, p)) * n
    k, total = len(index[0]) - 1, 0.0
    for row in p:
        q = [x / z for x in row]
        total -= math.log(q[0] / (q[0] + k / n + 1e-7))
        total -= sum(math.log((k / n) / (x + k / n + 1e-7)) for x in q[1:])
    return total / len(p), z


def test_value_over_two_batches_with_updates_between():
    method = build("crd", CONTEXT, **SMALL)
    tau, n = method.config.temperature, 40
    banks = {w: getattr(method, f"bank_{w}").tolist() for w in "st"}
    z = {"s": None, "t": None}
    for seed in (1, 2):
        student, teacher = (
            fake_features(CONTEXT.student, 6, seed=seed),
            fake_features(CONTEXT.teacher, 6, seed=seed + 10),
        )
        step = make_step(CONTEXT, student, teacher)
        state = step.generator.get_state()
        negatives = method.negatives(step.labels, step.generator)
        step.generator.set_state(state)
        loss = method.loss(step)["crd"]
        index = [[i, *row] for i, row in zip(step.indices.tolist(), negatives.tolist(), strict=True)]
        v_s = [unit(v) for v in method.embed_s(student.embedding).tolist()]
        v_t = [unit(v) for v in method.embed_t(teacher.embedding).tolist()]
        loss_s, z["s"] = expected_loss(v_s, banks["t"], index, z["s"], tau, n)
        loss_t, z["t"] = expected_loss(v_t, banks["s"], index, z["t"], tau, n)
        assert loss.item() == pytest.approx(loss_s + loss_t, rel=1e-9)
        with torch.no_grad():
            method.after_step()
        for which, new in (("s", v_s), ("t", v_t)):
            for i, v in zip(step.indices.tolist(), new, strict=True):
                banks[which][i] = unit([0.5 * a + 0.5 * b for a, b in zip(banks[which][i], v, strict=True)])
            assert torch.allclose(
                getattr(method, f"bank_{which}"), torch.tensor(banks[which], dtype=torch.float64)
            )


def test_both_embeddings_are_trained_but_neither_the_teacher_nor_the_banks():
    method = build("crd", CONTEXT, **SMALL)
    student, teacher = (
        fake_features(CONTEXT.student, requires_grad=True),
        fake_features(CONTEXT.teacher, seed=1),
    )
    method.loss(make_step(CONTEXT, student, teacher))["crd"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in method.parameters())
    assert bool(student.embedding.grad.any()) and not teacher.embedding.requires_grad
    assert {n for n, _ in method.named_parameters()} == {
        f"embed_{w}.{p}" for w in "st" for p in ("weight", "bias")
    }
    assert {"bank_s", "bank_t", "z_s", "z_t"} <= set(method.state_dict()), (
        "the banks are part of a checkpoint"
    )


def test_product_and_gather_equals_gather_and_product():
    g = torch.Generator().manual_seed(0)
    anchors = torch.randn(8, 16, dtype=torch.float64, generator=g, requires_grad=True)
    bank = torch.randn(100, 16, dtype=torch.float64, generator=g)
    index = torch.randint(100, (8, 30), generator=g)
    a, b = scores(anchors, bank, index), scores_by_rows(anchors, bank, index)
    assert torch.allclose(a, b, rtol=1e-12)
    weight = torch.randn(8, 30, dtype=torch.float64, generator=g)
    grads = [torch.autograd.grad((s * weight).sum(), anchors)[0] for s in (a, b)]
    assert torch.allclose(*grads, rtol=1e-12)


def labels(counts):
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(5))
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[order]


@pytest.mark.parametrize(
    ("counts", "k", "mode"),
    [((10, 10, 10, 10), 12, "window"), ((8, 12, 9, 11), 12, "keys"), ((10, 10, 10, 10), 300, "replacement")],
)
def test_negatives_are_of_other_classes_uniform_and_distinct(counts, k, mode):
    all_labels = labels(counts)
    negatives = Negatives(all_labels, len(counts), k)
    assert negatives.mode == mode
    g = torch.Generator().manual_seed(0)
    rows = torch.tensor([0, 1, 2, 3, 0])
    drawn = torch.zeros(len(rows), len(all_labels))
    rounds = 400
    for _ in range(rounds):
        index = negatives(rows, g)
        assert index.shape == (5, k) and bool((all_labels[index] != rows[:, None]).all())
        if mode != "replacement":
            assert all(len(set(r)) == k for r in index.tolist())
        drawn.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float32))
    for row, label in zip(drawn, rows, strict=True):
        others = row[all_labels != label]
        assert row.sum() == rounds * k and others.sum() == rounds * k
        # This finds gross unevenness: without replacement the counts spread less than chi-squared assumes, so
        # only its upper tail counts.
        assert stats.chisquare(others.numpy()).pvalue > 1e-4


def test_loss_is_lower_for_a_better_positive():
    p = torch.full((4, 9), 0.01)
    better = p.clone()
    better[:, 0] = 0.5
    assert nce_loss(better, 100) < nce_loss(p, 100)


def test_weight_zero_is_not_computed():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("crd", CONTEXT, **SMALL, weight=0.0).loss(step) == {}
