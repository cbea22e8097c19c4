"""SEED against its formula in plain loops, over several steps and a queue that wraps around."""

import math

import pytest
import torch
from kit import build, fake_features, make_context, make_step, real_step, tiny_info
from selfkd_kit import entropy, reaches, softmax
from torch import nn

from benchmark import methods

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=7))


def unit(rows):
    return [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows]


def test_value_over_three_steps():
    """With a queue of 10 and batches of 6, the second batch already overwrites the first two entries."""
    method = build("seed", CONTEXT, queue=10)
    queue = method.bank.tolist()
    assert all(math.hypot(*row) == pytest.approx(1) for row in queue)
    place = 0
    for k in range(3):
        student, teacher = fake_features(CONTEXT.student, seed=k), fake_features(CONTEXT.teacher, seed=10 + k)
        loss = method.loss(make_step(CONTEXT, student, teacher))["seed"].item()
        z_s, z_t = unit(method.head(student.embedding).tolist()), unit(teacher.embedding.tolist())
        total = 0.0
        for s, t in zip(z_s, z_t, strict=True):
            similar = [[sum(a * b for a, b in zip(z, d, strict=True)) for d in (t, *queue)] for z in (s, t)]
            total += entropy(softmax(similar[1], 0.01), [v / 0.2 for v in similar[0]])
        assert loss == pytest.approx(total / 6, rel=1e-9)
        method.after_step()
        for row in z_t:
            queue[place % 10] = row
            place += 1
        torch.testing.assert_close(method.bank, torch.tensor(queue, dtype=torch.float64))
    assert method.place == 18 % 10


def test_gradients_reach_embedding_and_head():
    method = build("seed", CONTEXT, queue=10)
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))["seed"]
    assert reaches(loss, student, "embedding")
    loss.backward()
    assert all(p.grad.any() for p in method.head.parameters())


def test_state_and_weight_zero():
    assert {"bank", "place"} <= set(build("seed", CONTEXT, queue=10).state_dict())
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    method = build("seed", CONTEXT, queue=10, weight=0.0)
    assert method.loss(step) == {}
    before = method.bank.clone()
    method.after_step()
    assert torch.equal(before, method.bank)


def test_memory_is_the_size_of_the_queue():
    method = build("seed", CONTEXT, queue=10)
    assert method.buffer_elements(method.config, 16, 10, CONTEXT.teacher) == method.bank.numel() == 70


def test_of_a_batch_longer_than_the_queue_the_last_rows_are_stored():
    method = build("seed", CONTEXT, queue=4)
    teacher = fake_features(CONTEXT.teacher, seed=1)
    method.loss(make_step(CONTEXT, fake_features(CONTEXT.student), teacher))
    method.after_step()
    torch.testing.assert_close(method.bank, torch.nn.functional.normalize(teacher.embedding[-4:], dim=1))


def test_a_teachers_classifier_is_not_read():
    """A self-supervised teacher has none: whatever its weights are, the loss is the same bit for bit."""
    losses = []
    for spread in (None, 0.0, 100.0):
        context = make_context()
        if spread is not None:
            nn.init.normal_(context.teacher_net.linear_head().weight, 0.0, spread)
        method = build("seed", context, dtype=torch.float32, queue=32)
        losses.append(method.loss(real_step(context, method.needs(method.config), torch.arange(8)))["seed"])
    assert all(torch.equal(losses[0], loss) for loss in losses)


def test_labels_for_the_classifier_alone():
    """With labels = "classifier", the cross-entropy trains the student's classifier and nothing else."""
    context = make_context()
    method = build("seed", context, dtype=torch.float32, queue=32, labels="classifier")
    step = real_step(context, method.needs(method.config), torch.arange(8))
    loss = method.task_loss(step)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(step.student.logits, step.labels))
    loss.backward()
    net = context.student_net
    assert all(p.grad is not None and p.grad.any() for p in net.linear_head().parameters())
    inside = {id(p) for p in net.linear_head().parameters()}
    assert all(p.grad is None for p in (*net.parameters(), *method.parameters()) if id(p) not in inside)
    assert build("seed", make_context(), queue=32).task_loss(step) is None
    assert not any("classifier" in key for key in method.state_dict()), "it is part of the student's state"


def test_the_allowed_values_of_labels():
    assert methods.check_override("seed.labels", "classifier") == "classifier"
    with pytest.raises(ValueError, match="allowed: student, classifier"):
        methods.check_override("seed.labels", "nobody")
