"""TF-KD by self-training against its formula in plain loops; its teacher."""

import pytest
from kit import build, fake_features, make_context, make_step, tiny_info, weights
from selfkd_kit import entropy, kl, onehot, reaches, softmax

from benchmark import methods
from benchmark.errors import InputError
from benchmark.spec import matrix
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request

CONTEXT = make_context(tiny_info(), tiny_info())


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_value_and_gradient(temperature):
    student, teacher = (
        fake_features(CONTEXT.student, requires_grad=True),
        fake_features(CONTEXT.teacher, seed=1),
    )
    loss = build("tfkd_self", CONTEXT, temperature=temperature).loss(make_step(CONTEXT, student, teacher))[
        "tfkd_self"
    ]
    rows = zip(teacher.logits.tolist(), student.logits.tolist(), strict=True)
    expected = sum(kl(softmax(t, temperature), s, temperature) for t, s in rows)
    assert loss.item() == pytest.approx(temperature**2 * expected / 6, rel=1e-9)
    assert reaches(loss, student, "logits")


@pytest.mark.parametrize(
    ("network", "alpha", "temperature"), [("ResNet18", 0.95, 6.0), ("DenseNet121", 0.9, 20.0)]
)
def test_constants_of_the_networks(network, alpha, temperature):
    """As the released loss has them: a mean over all B x 100 elements times the multiplier, 50."""
    context = make_context(tiny_info(), tiny_info(), num_classes=100, n=200)
    student = fake_features(context.student, num_classes=100, requires_grad=True)
    teacher = fake_features(context.teacher, num_classes=100, seed=1)
    step = make_step(context, student, teacher)
    spec = methods.parse("tfkd_self", {}, "none", network)
    total, _ = methods.Objective(spec, context, lambda name: 0)({"tfkd_self": step})
    total.backward()
    expected = 0.0
    for y, s, t, grad in zip(
        step.labels.tolist(),
        student.logits.tolist(),
        teacher.logits.tolist(),
        student.logits.grad.tolist(),
        strict=True,
    ):
        soft_s, soft_t = softmax(s, temperature), softmax(t, temperature)
        expected += (1 - alpha) * entropy(onehot(y, 100), s) / 6
        expected += alpha * 50 * temperature**2 * kl(soft_t, s, temperature) / (6 * 100)
        rows = zip(softmax(s), onehot(y, 100), soft_s, soft_t, strict=True)
        assert grad == pytest.approx(
            [(1 - alpha) * (p - o) / 6 + alpha * 50 * temperature * (a - b) / 600 for p, o, a, b in rows],
            rel=1e-9,
            abs=1e-15,
        )
    assert total.item() == pytest.approx(expected, rel=1e-12)


def test_weights():
    assert methods.parse("tfkd_self").ce == 0.05
    assert weights(build("tfkd_self", CONTEXT, multiplier=2.0)) == {"tfkd_self": pytest.approx(1.9)}


def test_the_teacher_is_the_plain_training_of_the_same_network():
    resolver = Resolver()
    run = resolver.run(Request("cifar100", "lightskd", "paper", "none", "ResNet18", "tfkd_self"), 2)
    plain = resolver.run(Request("cifar100", "lightskd", "paper", "none", "ResNet18", "plain"), 0)
    assert run.needs_runs == (plain,) and run.teacher == "none" and run.teacher_ref.epoch == "best"
    assert resolver.from_order(run.order()) == run
    with pytest.raises(InputError, match="has the student's architecture; use the pair none:resnet20"):
        resolver.run(Request("cifar100", "crd", "paper", "resnet56", "resnet20", "tfkd_self"), 0)


def test_columns_that_share_a_student_share_the_run_of_a_method_without_a_teacher():
    table = matrix.load_table("crd-table1")
    for method in ("tfkd_self", "dsr", "label_smoothing"):
        row = matrix.Row(method, method, "crd")
        requests = {
            matrix.Expander(table=table, profile="paper", dataset="cifar100", seeds=(0,)).request(
                row, t, "resnet20"
            )
            for t in ("resnet56", "resnet110")
        }
        assert {r.teacher for r in requests} == {"none"} and len(requests) == 1
