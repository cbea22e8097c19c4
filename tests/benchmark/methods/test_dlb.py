"""DLB against its formula in plain loops, over three batches."""

import pytest
import torch
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import kl, softmax

CONTEXT = make_context(tiny_info(), None, batch_size=6)
FIRST, SECOND, LAST = (
    torch.tensor([1, 2, 3, 4, 5, 6]),
    torch.tensor([4, 5, 6, 7, 8, 9]),
    torch.tensor([7, 8, 9, 10, 11]),
)


def run_batches(method, orders, grad=False):
    """`(loss, features)` of each batch."""
    results = []
    for k, rows in enumerate(orders):
        student = fake_features(CONTEXT.student, len(rows), seed=k, requires_grad=grad)
        results.append((method.loss(make_step(CONTEXT, student, indices=rows))["dlb"], student))
    return results


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_value(temperature):
    steps = run_batches(build("dlb", CONTEXT, temperature=temperature), [FIRST, SECOND, LAST])
    z = [features.logits.tolist() for _, features in steps]
    assert steps[0][0].item() == 0
    for k in (1, 2):
        rows = [kl(softmax(z[k - 1][3 + i], temperature), z[k][i], temperature) for i in range(3)]
        assert steps[k][0].item() == pytest.approx(temperature**2 * sum(rows) / 3, rel=1e-12)


def test_only_the_repeated_rows_count():
    """Two of the first three rows were not in the batch before."""
    method = build("dlb", CONTEXT, temperature=1.0)
    steps = run_batches(method, [FIRST, torch.tensor([20, 5, 21, 7, 8, 9])])
    z = [features.logits.tolist() for _, features in steps]
    assert steps[1][0].item() == pytest.approx(kl(softmax(z[0][4]), z[1][1]), rel=1e-12)


def test_after_an_epochs_end_nothing_repeats():
    steps = run_batches(build("dlb", CONTEXT), [LAST, torch.tensor([30, 31, 32, 33, 34, 35])])
    assert steps[1][0].item() == 0


def test_gradient_reaches_the_repeated_half_alone():
    loss, student = run_batches(build("dlb", CONTEXT), [FIRST, SECOND], grad=True)[1]
    loss.backward()
    assert student.logits.grad[:3].any(1).all() and not student.logits.grad[3:].any()


def test_the_last_outputs_are_in_the_state():
    method = build("dlb", CONTEXT)
    ((_, student),) = run_batches(method, [FIRST])
    assert torch.equal(method.state_dict()["past"], student.logits[3:]) and method.rows.tolist() == [4, 5, 6]
