"""DSR against its formula in plain loops, over two epochs."""

import pytest
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import kl, reaches, softmax

CONTEXT = make_context(tiny_info(), None, batch_size=6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value(temperature):
    """Three batches, the last smaller: rows are compared with the batch before, except in the first batch."""
    method = build("dsr", CONTEXT, temperature=temperature)
    before = None
    for epoch in (1, 2):
        method.start_epoch(epoch)
        for k, size in enumerate((6, 6, 4)):
            student = fake_features(CONTEXT.student, size, seed=10 * epoch + k)
            loss = method.loss(make_step(CONTEXT, student))["dsr"].item()
            z = [sorted(row) for row in student.logits.tolist()]
            rows = (
                []
                if k == 0
                else [kl(softmax(p, temperature), q, temperature) for p, q in zip(before, z, strict=False)]
            )
            assert loss == pytest.approx(temperature**2 * sum(rows) / size, rel=1e-12)
            before = z


def test_the_order_of_the_classes_does_not_matter():
    student = fake_features(CONTEXT.student)
    method = build("dsr", CONTEXT)
    method.start_epoch(1)
    method.loss(make_step(CONTEXT, student))
    permuted = student.replace(logits=student.logits.roll(3, dims=1))
    assert method.loss(make_step(CONTEXT, permuted))["dsr"].item() == pytest.approx(0, abs=1e-14)


def test_gradient_reaches_the_logits_alone():
    method = build("dsr", CONTEXT)
    method.start_epoch(1)
    for k in range(2):
        student = fake_features(CONTEXT.student, requires_grad=True, seed=k)
        loss = method.loss(make_step(CONTEXT, student))["dsr"]
        assert reaches(loss, student, *(["logits"] if k else []))


def test_the_last_outputs_are_in_the_state_and_weight_zero_is_not_computed():
    method = build("dsr", CONTEXT)
    method.start_epoch(3)
    student = fake_features(CONTEXT.student)
    method.loss(make_step(CONTEXT, student))
    state = method.state_dict()
    assert set(state) == {"past", "past_epoch"} and state["past_epoch"] == 3
    assert state["past"].tolist() == [sorted(row) for row in student.logits.tolist()]
    assert build("dsr", CONTEXT, weight=0.0).loss(make_step(CONTEXT, student)) == {}
