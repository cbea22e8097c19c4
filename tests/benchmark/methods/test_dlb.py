"""DLB against its formula in plain loops, over the batches of two epochs."""

import itertools

import pytest
import torch
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import entropy, kl, onehot, softmax

from benchmark import methods
from benchmark.data.samplers import join

CONTEXT = make_context(tiny_info(), None, batch_size=6)
NEW = [torch.tensor(rows) for rows in ([1, 2, 3], [4, 5, 6], [7, 8], [9, 10, 11])]
"""The new images of the two batches and the smaller last one of an epoch, and of the first of the next."""


def run_batches(method, new, grad=False, before=None):
    """`(loss, features, number of new rows, step)` of each batch, new rows first."""
    results = []
    for k, (rows, first) in enumerate(join(new, before)):
        student = fake_features(CONTEXT.student, len(rows), seed=k, requires_grad=grad)
        step = make_step(CONTEXT, student, indices=rows)
        step.first = first
        results.append((method.loss(step)["dlb"], student, first, step))
    return results


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_value_and_gradient(temperature):
    steps = run_batches(build("dlb", CONTEXT, temperature=temperature), NEW, grad=True)
    assert steps[0][0].item() == 0 and steps[0][2] == len(steps[0][1].logits) == 3
    for (_, before, _, _), (loss, student, first, _) in itertools.pairwise(steps):
        z, previous = student.logits.tolist(), before.logits.tolist()
        n = len(z) - first
        assert n in (2, 3)
        kls = [kl(softmax(previous[i], temperature), z[first + i], temperature) for i in range(n)]
        assert loss.item() == pytest.approx(temperature**2 * sum(kls) / n, rel=1e-12)
        loss.backward()
        grads = student.logits.grad.tolist()
        assert not any(map(any, grads[:first])), "only the repeated half reads the last outputs"
        for i in range(n):
            rows = zip(softmax(z[first + i], temperature), softmax(previous[i], temperature), strict=True)
            assert grads[first + i] == pytest.approx([temperature * (p - q) / n for p, q in rows], rel=1e-9)


def test_the_cross_entropy_is_the_mean_over_both_halves():
    (_, student, _, step) = run_batches(build("dlb", CONTEXT), NEW[:2])[1]
    objective = methods.Objective(methods.parse("dlb"), CONTEXT, lambda name: 0)
    _, terms = objective({"dlb": step})
    rows = zip(step.labels.tolist(), student.logits.tolist(), strict=True)
    assert terms["ce"].item() == pytest.approx(sum(entropy(onehot(y), z) for y, z in rows) / 6, rel=1e-12)


def test_only_rows_of_the_batch_before_count():
    """Of three repeated rows, one is an image that the batch before did not have."""
    method = build("dlb", CONTEXT, temperature=1.0)
    run_batches(method, NEW[:1])
    ((loss, student, first, _),) = run_batches(method, [NEW[3]], before=torch.tensor([1, 20, 3]))
    z, previous = student.logits.tolist(), fake_features(CONTEXT.student, 3, seed=0).logits.tolist()
    kls = [kl(softmax(previous[i]), z[first + i]) for i in (0, 2)]
    assert loss.item() == pytest.approx(sum(kls) / 2, rel=1e-12)


def test_the_last_outputs_are_in_the_state():
    method = build("dlb", CONTEXT)
    (_, (_, student, _, _), (_, last, _, _)) = run_batches(method, NEW[:3])
    state = method.state_dict()
    assert torch.equal(state["past"], torch.cat([last.logits[:2], student.logits[2:3]]))
    assert state["rows"].tolist() == [7, 8, -1]
