"""PS-KD against its formula in plain loops, over two epochs."""

import pytest
import torch
import torch.nn.functional as F
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import entropy, onehot, reaches, softmax

CONTEXT = make_context(tiny_info(), None, epochs=4)


def test_value_over_two_epochs():
    """Epoch 1 is the plain cross-entropy; in epoch 2, the first predictions have a share of 0.8 * 2/4."""
    method = build("pskd", CONTEXT)
    first, second = fake_features(CONTEXT.student, seed=1), fake_features(CONTEXT.student, seed=2)
    rows = torch.tensor([5, 0, 9, 3, 20, 11])
    later = torch.tensor([3, 5, 7, 0, 11, 20])  # image 7 is new
    step = make_step(CONTEXT, first, indices=rows)
    method.start_epoch(1)
    torch.testing.assert_close(method.task_loss(step), F.cross_entropy(first.logits, step.labels))
    method.after_step()
    predictions = {i: softmax(z) for i, z in zip(rows.tolist(), first.logits.tolist(), strict=True)}
    method.start_epoch(2)
    total = 0.0
    for i, z in zip(later.tolist(), second.logits.tolist(), strict=True):
        label = onehot(int(CONTEXT.train_labels[i]))
        total += entropy(
            [0.6 * a + 0.4 * b for a, b in zip(label, predictions.get(i, label), strict=True)], z
        )
    assert method.task_loss(make_step(CONTEXT, second, indices=later)).item() == pytest.approx(
        total / 6, rel=1e-12
    )


def test_predictions_are_stored_after_the_step_and_in_the_state():
    method = build("pskd", CONTEXT)
    before = method.state_dict()["past"].clone()
    method.task_loss(make_step(CONTEXT, fake_features(CONTEXT.student)))
    assert torch.equal(method.past, before)
    method.after_step()
    assert set(method.state_dict()) == {"past"} and (method.past != before).any(1).sum() == 6


def test_gradient_reaches_the_logits_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    method = build("pskd", CONTEXT)
    method.start_epoch(2)
    assert reaches(method.task_loss(make_step(CONTEXT, student)), student, "logits")


def test_the_share_grows_to_alpha():
    method = build("pskd", CONTEXT, alpha=0.5)
    shares = []
    for epoch in range(1, 5):
        method.start_epoch(epoch)
        shares.append(float(method.share))
    assert shares == pytest.approx([0.125, 0.25, 0.375, 0.5])
