"""DarkRank, hard and soft, against its formula in plain loops."""

import itertools
import math

import pytest
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import reaches

from benchmark import methods
from benchmark.errors import InputError

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=7))


def scores(rows, alpha, beta):
    unit = [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows]
    return [[-alpha * math.dist(a, b) ** beta for b in unit] for a in unit]


def log_p(order, row):
    """Plackett-Luce: the images of the order are drawn one after the other, each from those that are left."""
    return sum(row[i] - math.log(sum(math.exp(row[j]) for j in order[k:])) for k, i in enumerate(order))


def expected(student, teacher, kind, alpha, beta, length):
    s, t = (scores(f.embedding.tolist(), alpha, beta) for f in (student, teacher))
    total = 0.0
    for i in range(len(s)):
        best = sorted((j for j in range(len(s)) if j != i), key=lambda j: -t[i][j])[:length]
        if kind == "hard":
            total -= log_p(best, s[i])
        else:
            pairs = [(log_p(order, t[i]), log_p(order, s[i])) for order in itertools.permutations(best)]
            assert sum(math.exp(a) for a, _ in pairs) == pytest.approx(1)
            total += sum(math.exp(a) * (a - b) for a, b in pairs)
    return total / len(s)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize(
    ("alpha", "beta", "length", "batch"), [(3.0, 3.0, 4, 6), (1.0, 2.0, 3, 5), (3.0, 3.0, 4, 3)]
)
def test_value(kind, alpha, beta, length, batch):
    """In the last case the batch has fewer other images than `length`."""
    student, teacher = fake_features(CONTEXT.student, batch), fake_features(CONTEXT.teacher, batch, seed=1)
    method = build("darkrank", CONTEXT, kind=kind, alpha=alpha, beta=beta, length=length)
    loss = method.loss(make_step(CONTEXT, student, teacher))["darkrank"].item()
    assert loss == pytest.approx(
        expected(student, teacher, kind, alpha, beta, min(length, batch - 1)), rel=1e-9
    )


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_gradient_reaches_the_embedding_alone(kind):
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = build("darkrank", CONTEXT, kind=kind).loss(
        make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1))
    )["darkrank"]
    assert reaches(loss, student, "embedding")


def test_a_perfect_student_has_no_soft_loss():
    features = fake_features(CONTEXT.student)
    assert build("darkrank", CONTEXT, kind="soft").loss(make_step(CONTEXT, features, features))[
        "darkrank"
    ].item() == pytest.approx(0)


def test_length_out_of_range():
    with pytest.raises(InputError, match=r"length=9 is out of range; allowed: 2 to 6"):
        methods.parse("darkrank", {"darkrank.length": 9})


def test_weight_zero_is_not_computed_and_the_orders_are_not_in_the_state():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("darkrank", CONTEXT, weight=0.0).loss(step) == {}
    assert "orders" not in build("darkrank", CONTEXT).state_dict()
