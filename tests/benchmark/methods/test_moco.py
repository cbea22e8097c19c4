"""A step of MoCo against plain loops: the loss, the momentum encoder and the queue."""

import copy
import math

import pytest
import torch
from kit import build, make_context, real_step
from selfkd_kit import softmax

from benchmark import methods
from models import build as build_network

BATCH, MOMENTUM = 4, 0.75


def made():
    """Return `(context, method)` in fp64, with a queue of two batches."""
    context = make_context("resnet8", None, batch_size=BATCH)
    context.student_net.double()
    return context, build("moco", context, queue=2 * BATCH, dim=3, momentum=MOMENTUM)


def through(projector, rows):
    """Linear-ReLU-Linear and L2 normalisation of `[B, d]`, in plain loops."""
    for layer in (projector[0], projector[2]):
        w, b = layer.weight.tolist(), layer.bias.tolist()
        rows = [
            [sum(a * v for a, v in zip(line, row, strict=True)) + c for line, c in zip(w, b, strict=True)]
            for row in rows
        ]
        if layer is projector[0]:
            rows = [[max(v, 0.0) for v in row] for row in rows]
    return [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows]


def parameters(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def test_three_steps_by_plain_loops():
    context, method = made()
    needs = method.needs(method.config)
    student, encoder = context.student_net, build_network("resnet8", 10).double()
    encoder.load_state_dict(student.state_dict())
    projector_k = copy.deepcopy(method.projector)
    queue = method.queue.bank.tolist()
    for k in range(3):
        step = real_step(context, needs, torch.arange(BATCH * k, BATCH * (k + 1)), seed=k)
        loss = method.loss(step)["moco"]
        q = through(method.projector, step.student.embedding.tolist())
        with torch.no_grad():  # in train mode: normalised by the statistics of the batch of second views
            keys = through(projector_k, encoder.features(step.images["second"].double()).embedding.tolist())
        total = 0.0
        for i in range(BATCH):
            others = [keys[i], *queue]
            products = [sum(a * b for a, b in zip(q[i], z, strict=True)) / 0.2 for z in others]
            total -= math.log(softmax(products)[0])
        assert loss.item() == pytest.approx(total / BATCH, rel=1e-9)

        loss.backward()
        with torch.no_grad():  # a step of plain gradient descent
            for p in (*student.parameters(), *method.projector.parameters()):
                if p.grad is not None:
                    p -= 0.1 * p.grad
                p.grad = None
        method.after_step()
        queue[BATCH * (k % 2) : BATCH * (k % 2 + 1)] = keys
        for net_k, net_q in ((encoder, student), (projector_k, method.projector)):
            new = parameters(net_q)
            for name, p in net_k.named_parameters():
                if not name.startswith("fc."):  # the classifier
                    p.data = MOMENTUM * p.data + (1 - MOMENTUM) * new[name]
        for ours, expected in ((method.encoder_k, encoder), (method.projector_k, projector_k)):
            for name, p in ours.named_parameters():
                torch.testing.assert_close(p, expected.get_parameter(name), msg=name)
        torch.testing.assert_close(method.queue.bank, torch.tensor(queue, dtype=torch.float64))


def test_gradients_reach_the_student_and_its_projector_alone():
    context, method = made()
    step = real_step(context, method.needs(method.config), torch.arange(BATCH))
    method.loss(step)["moco"].backward()
    assert all(p.grad is not None for p in method.projector.parameters())
    assert context.student_net.conv1.weight.grad.any()
    assert all(p.grad is None for p in (*method.encoder_k.parameters(), *method.projector_k.parameters()))
    assert context.student_net.fc.weight.grad is None


def test_labels_train_the_classifier_alone():
    context, method = made()
    step = real_step(context, method.needs(method.config), torch.arange(BATCH))
    method.task_loss(step).backward()
    with_gradient = {n for n, p in context.student_net.named_parameters() if p.grad is not None}
    assert with_gradient == {"fc.weight", "fc.bias"}


def test_the_queue_consists_of_whole_batches():
    with pytest.raises(ValueError, match=r"moco.queue=10 is not a multiple of the batch size 4; .* 8$"):
        build("moco", make_context("resnet8", None, batch_size=BATCH), queue=10)


def test_wrong_momentum():
    with pytest.raises(ValueError, match=r"moco.momentum=1.0; allowed: 0 and more, below 1"):
        methods.get("moco").Config(momentum=1.0)
