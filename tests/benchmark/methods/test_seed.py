"""SEED against its formula in plain loops, over several steps and a queue that wraps around."""

import dataclasses
import math

import pytest
import torch
from kit import build, fake_features, make_context, make_step, real_step, tiny_info
from selfkd_kit import entropy, reaches, softmax
from torch import nn

from benchmark import methods
from models import mlp

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=7), batch_size=6)
OLD = {"form": "embedding", "teacher_temperature": 0.01, "labels": "student"}


def unit(rows):
    return [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows]


def affine(rows, layer):
    w, b = layer.weight.tolist(), layer.bias.tolist()
    return [
        [sum(a * v for a, v in zip(line, row, strict=True)) + c for line, c in zip(w, b, strict=True)]
        for row in rows
    ]


def through(rows, head):
    """Linear-ReLU-Linear in plain loops."""
    hidden = [[max(v, 0.0) for v in row] for row in affine(rows, head[0])]
    return affine(hidden, head[2])


def with_projector(width=4):
    """Return a context whose teacher was pre-trained with a projector."""
    context = make_context("resnet8", "resnet14", batch_size=6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        context.teacher_net.projector = mlp(64, 8, width).double().eval().requires_grad_(False)
    return dataclasses.replace(context)  # a new context knows the teacher's new module


def check_steps(method, context, project, size, temperature):
    """Three steps against plain loops; returns the queue in the end. project: the teacher's rows."""
    queue = method.queue.bank.tolist()
    assert len(queue) == size
    assert all(math.hypot(*row) == pytest.approx(1) for row in queue)
    position = 0
    for k in range(3):
        student, teacher = fake_features(context.student, seed=k), fake_features(context.teacher, seed=10 + k)
        loss = method.loss(make_step(context, student, teacher))["seed"].item()
        z_s = unit(through(student.embedding.tolist(), method.head))
        z_t = unit(project(teacher.embedding.tolist()))
        total = 0.0
        for s, t in zip(z_s, z_t, strict=True):
            similar = [[sum(a * b for a, b in zip(z, d, strict=True)) for d in (t, *queue)] for z in (s, t)]
            total += entropy(softmax(similar[1], temperature), [v / 0.2 for v in similar[0]])
        assert loss == pytest.approx(total / 6, rel=1e-9)
        method.after_step()
        for row in z_t:
            queue[position % size] = row
            position += 1
        torch.testing.assert_close(method.queue.bank, torch.tensor(queue, dtype=torch.float64))
    assert method.queue.position == 18 % size


def test_value_with_the_teachers_projector():
    """The second batch finds the first in the queue of two batches; the third overwrites the first."""
    context = with_projector()
    method = build("seed", context, queue=12)
    assert [tuple(p.shape) for p in method.head.parameters()] == [(64, 64), (64,), (4, 64), (4,)]
    check_steps(method, context, lambda rows: through(rows, context.teacher_net.projector), 12, 1e-4)


def test_the_projector_is_the_teachers():
    """It is neither saved nor trained with the method."""
    method = build("seed", with_projector(), queue=12)
    assert method.projector is not None
    assert {key.split(".")[0] for key in method.state_dict()} == {"head", "queue"}


def test_a_teacher_without_projector_gives_its_embedding():
    method = build("seed", CONTEXT, queue=12)
    assert method.head[2].out_features == 7
    check_steps(method, CONTEXT, lambda rows: rows, 12, 1e-4)


def test_value_of_the_old_form():
    """With a queue of 10 and batches of 6, the second batch already overwrites the first two entries."""
    check_steps(build("seed", CONTEXT, queue=10, **OLD), CONTEXT, lambda rows: rows, 10, 0.01)


def test_the_old_form_reads_no_projector():
    assert build("seed", with_projector(), queue=10, **OLD).projector is None


def test_the_queue_consists_of_whole_batches():
    with pytest.raises(ValueError, match=r"seed.queue=16 is not a multiple of the batch size 6; .* 12$"):
        build("seed", CONTEXT, queue=16)


def test_gradients_reach_embedding_and_head():
    method = build("seed", CONTEXT, queue=12)
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))["seed"]
    assert reaches(loss, student, "embedding")
    loss.backward()
    assert all(p.grad.any() for p in method.head.parameters())


def test_state_and_weight_zero():
    assert {"queue.bank", "queue.position"} <= set(build("seed", CONTEXT, queue=12).state_dict())
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    method = build("seed", CONTEXT, queue=12, weight=0.0)
    assert method.loss(step) == {}
    before = method.queue.bank.clone()
    method.after_step()
    assert torch.equal(before, method.queue.bank)


def test_memory_is_the_size_of_the_queue():
    method = build("seed", CONTEXT, queue=12)
    assert method.buffer_elements(method.config, 16, 10, CONTEXT.teacher) == method.queue.bank.numel() == 84


def test_of_a_batch_longer_than_the_queue_the_last_rows_are_stored():
    method = build("seed", CONTEXT, queue=4, **OLD)
    teacher = fake_features(CONTEXT.teacher, seed=1)
    method.loss(make_step(CONTEXT, fake_features(CONTEXT.student), teacher))
    method.after_step()
    torch.testing.assert_close(
        method.queue.bank, torch.nn.functional.normalize(teacher.embedding[-4:], dim=1)
    )


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
    assert build("seed", make_context(), queue=32, labels="student").task_loss(step) is None
    assert not any("classifier" in key for key in method.state_dict()), "it is part of the student's state"


def test_the_allowed_values_of_labels():
    assert methods.check_override("seed.labels", "classifier") == "classifier"
    with pytest.raises(ValueError, match="allowed: student, classifier"):
        methods.check_override("seed.labels", "nobody")
