"""SEED against its formula in plain loops, over two steps and a queue that comes round."""

import math

import pytest
import torch
from kit import build, fake_features, make_site, make_step, tiny_info
from selfkd_kit import entropy, reaches, softmax

SITE = make_site(tiny_info(embedding=5), tiny_info(embedding=7))


def unit(rows):
    return [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows]


def test_value_over_three_steps():
    """The queue of ten: after two batches of six the first two are replaced again."""
    method = build("seed", SITE, queue=10)
    queue = method.bank.tolist()
    assert all(math.hypot(*row) == pytest.approx(1) for row in queue)
    place = 0
    for k in range(3):
        student, teacher = fake_features(SITE.student, seed=k), fake_features(SITE.teacher, seed=10 + k)
        found = method.loss(make_step(SITE, student, teacher))["seed"].item()
        z_s, z_t = unit(method.head(student.embedding).tolist()), unit(teacher.embedding.tolist())
        total = 0.0
        for s, t in zip(z_s, z_t, strict=True):
            against = [[sum(a * b for a, b in zip(z, d, strict=True)) for d in (t, *queue)] for z in (s, t)]
            total += entropy(softmax(against[1], 0.01), [v / 0.2 for v in against[0]])
        assert found == pytest.approx(total / 6, rel=1e-9)
        method.after_step()
        for row in z_t:
            queue[place % 10] = row
            place += 1
        torch.testing.assert_close(method.bank, torch.tensor(queue, dtype=torch.float64))
    assert method.place == 18 % 10


def test_gradients_reach_embedding_and_head():
    method = build("seed", SITE, queue=10)
    student = fake_features(SITE.student, requires_grad=True)
    loss = method.loss(make_step(SITE, student, fake_features(SITE.teacher, seed=1)))["seed"]
    assert reaches(loss, student, "embedding")
    loss.backward()
    assert all(p.grad.any() for p in method.head.parameters())


def test_state_and_weight_zero():
    assert {"bank", "place"} <= set(build("seed", SITE, queue=10).state_dict())
    step = make_step(SITE, fake_features(SITE.student), fake_features(SITE.teacher))
    method = build("seed", SITE, queue=10, weight=0.0)
    assert method.loss(step) == {}
    before = method.bank.clone()
    method.after_step()
    assert torch.equal(before, method.bank)


def test_a_batch_longer_than_the_queue_keeps_its_end():
    method = build("seed", SITE, queue=4)
    teacher = fake_features(SITE.teacher, seed=1)
    method.loss(make_step(SITE, fake_features(SITE.student), teacher))
    method.after_step()
    torch.testing.assert_close(method.bank, torch.nn.functional.normalize(teacher.embedding[-4:], dim=1))
