"""AB: the initialisation loss against its formula in plain loops; no loss term in the main stage."""

import pytest
import torch
from kit import build, fake_features, make_context, make_step, tiny_info

import models
from benchmark import methods

SAME = make_context(tiny_info(((3, 4, 4), (4, 2, 2))), tiny_info(((3, 4, 4), (4, 2, 2))))
OTHER = make_context(tiny_info(((3, 4, 4), (4, 2, 2))), tiny_info(((2, 8, 8), (5, 2, 2))))


def expected_loss(student, teacher, batch):
    """3/1000 * sum_i 2^(i-n+1) / B * sum over the elements, in plain loops."""
    n, total = len(student), 0.0
    for i, (maps_s, maps_t) in enumerate(zip(student, teacher, strict=True)):
        layer = 0.0
        for s, t in zip(maps_s.flatten().tolist(), maps_t.flatten().tolist(), strict=True):
            if t <= 0 and s > -1:
                layer += (s + 1) ** 2
            if t > 0 and s <= 1:
                layer += (s - 1) ** 2
        total += 2.0 ** (i - n + 1) * layer / batch
    return total * 3 / 1000


def test_value_without_connectors():
    student, teacher = fake_features(SAME.student, 6), fake_features(SAME.teacher, 6, seed=1)
    method = build("ab", SAME)
    loss = method.init_loss(make_step(SAME, student, teacher))["ab"]
    assert loss.item() == pytest.approx(expected_loss(student.preacts, teacher.preacts, 6), rel=1e-12)
    assert not list(method.parameters()), "equal shapes need no connector"


def test_value_with_connectors():
    student, teacher = fake_features(OTHER.student, 6), fake_features(OTHER.teacher, 6, seed=1)
    method = build("ab", OTHER)
    step = make_step(OTHER, student, teacher)
    mapped = [c(s) for c, s in zip(method.connectors, student.preacts, strict=True)]
    assert [m.shape for m in mapped] == [t.shape for t in teacher.preacts]
    assert not any(isinstance(m, torch.nn.ReLU) for m in method.modules())
    loss = method.init_loss(step)["ab"]
    assert loss.item() == pytest.approx(expected_loss(mapped, teacher.preacts, 6), rel=1e-12)


def test_gradients_reach_preactivations_and_connectors_not_the_teacher():
    student, teacher = fake_features(OTHER.student, requires_grad=True), fake_features(OTHER.teacher, seed=1)
    method = build("ab", OTHER)
    method.init_loss(make_step(OTHER, student, teacher))["ab"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in student.preacts)
    assert all(p.grad is not None for p in method.parameters()) and not any(
        t.requires_grad for t in teacher.preacts
    )
    method.after_init()
    assert not any(p.requires_grad for p in method.parameters())


def test_the_stage_trains_stem_and_stages_alone():
    net = models.build("wrn_16_1", 10)
    context = make_context("wrn_16_1", "wrn_16_2")
    trained = {
        id(p) for m in build("ab", context, dtype=torch.float32).init_modules(net) for p in m.parameters()
    }
    outside = {n for n, p in net.named_parameters() if id(p) not in trained}
    assert outside == {"bn1.weight", "bn1.bias", "fc.weight", "fc.bias"}


def test_the_main_stage_needs_no_teacher_and_has_no_term():
    spec = methods.parse("ab")
    assert not spec.needs().passes and spec.needs_teacher and methods.parse("ab+kd").needs().passes
    step = make_step(SAME, fake_features(SAME.student), fake_features(SAME.teacher))
    assert build("ab", SAME).loss(step) == {}


@pytest.mark.parametrize(
    "pair",
    [("vgg13", "MobileNetV2"), ("ResNet50", "vgg8"), ("resnet32x4", "ShuffleV2"), ("wrn_40_2", "wrn_40_1")],
)
def test_every_kind_of_pair_of_the_tables_can_be_connected(pair):
    teacher, student = (models.info(n, 100) for n in pair)
    assert methods.parse("ab").skip(student, teacher) is None
    assert build("ab", make_context(student, teacher, num_classes=100, n=200), dtype=torch.float32)
