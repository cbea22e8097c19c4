"""RKD against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info, weights

from benchmark import methods

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=7))


def smooth_l1(a, b):
    return 0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def distances(rows):
    """sqrt(clamp(squared, 1e-12)), a zero diagonal, divided by the mean over the strictly positive ones."""
    n = len(rows)
    d = [
        [
            0.0
            if i == j
            else math.sqrt(max(sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True)), 1e-12))
            for j in range(n)
        ]
        for i in range(n)
    ]
    positive = [v for line in d for v in line if v > 0]
    mean = sum(positive) / len(positive)
    return [v / mean for line in d for v in line]


def cosines(rows):
    def direction(i, j):
        offset = [b - a for a, b in zip(rows[i], rows[j], strict=True)]
        length = math.sqrt(sum(o * o for o in offset))
        return [o / length if length else 0.0 for o in offset]

    n = range(len(rows))
    return [
        sum(a * b for a, b in zip(direction(i, j), direction(i, k), strict=True))
        for i in n
        for j in n
        for k in n
    ]


def mean_smooth_l1(a, b):
    return sum(map(smooth_l1, a, b)) / len(a)


@pytest.mark.parametrize("batch", [2, 3, 7])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_value(batch, scale):
    student, teacher = fake_features(CONTEXT.student, batch), fake_features(CONTEXT.teacher, batch, seed=1)
    embedding = student.embedding.clone()
    embedding[0] *= scale  # far from the rest: the linear branch of smooth L1
    student = student.replace(embedding=embedding)
    s, t = embedding.tolist(), teacher.embedding.tolist()
    terms = build("rkd", CONTEXT).loss(make_step(CONTEXT, student, teacher))
    assert terms["rkd_distance"].item() == pytest.approx(
        mean_smooth_l1(distances(s), distances(t)), rel=1e-10, abs=1e-15
    )
    assert terms["rkd_angle"].item() == pytest.approx(
        mean_smooth_l1(cosines(s), cosines(t)), rel=1e-10, abs=1e-15
    )


def test_a_repeated_image_counts_with_the_smallest_distance():
    """The clamped distance to its copy is positive, so the mean includes it."""
    student, teacher = fake_features(CONTEXT.student, 4), fake_features(CONTEXT.teacher, 4, seed=1)
    embedding = student.embedding[[0, 0, 2, 3]]
    terms = build("rkd", CONTEXT).loss(make_step(CONTEXT, student.replace(embedding=embedding), teacher))
    expected = mean_smooth_l1(distances(embedding.tolist()), distances(teacher.embedding.tolist()))
    assert terms["rkd_distance"].item() == pytest.approx(expected, rel=1e-10)


def test_gradient_reaches_the_embedding_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    terms = build("rkd", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))
    for term in terms.values():
        assert gradients(term, student) == {
            "stem": False,
            "stages": False,
            "preacts": False,
            "embedding": True,
            "logits": False,
        }


@pytest.mark.parametrize("term", ["rkd_distance", "rkd_angle"])
def test_gradient_check_through_the_students_mean(term):
    student, teacher = (
        fake_features(CONTEXT.student, 4, requires_grad=True),
        fake_features(CONTEXT.teacher, 4, seed=1),
    )
    method = build("rkd", CONTEXT)

    def loss(embedding):
        return method.loss(make_step(CONTEXT, student.replace(embedding=embedding), teacher))[term]

    assert torch.autograd.gradcheck(loss, (student.embedding,))


@pytest.mark.parametrize("rows", [[0, 0, 2, 3], [0, 0, 0, 0]])
def test_equal_vectors_give_finite_gradients(rows):
    features = fake_features(CONTEXT.student, 4)
    student = features.replace(embedding=features.embedding[rows].requires_grad_())
    terms = build("rkd", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, 4, seed=1)))
    for term in terms.values():
        assert term.isfinite()
        assert torch.autograd.grad(term, student.embedding, retain_graph=True)[0].isfinite().all()


def test_weights():
    assert weights(build("rkd", CONTEXT)) == {"rkd_distance": 25.0, "rkd_angle": 50.0}
    assert weights(build("rkd", CONTEXT, weight=2.0, angle=3.0)) == {"rkd_distance": 50.0, "rkd_angle": 6.0}


@pytest.mark.parametrize(
    ("settings", "left"),
    [({"distance": 0.0}, {"rkd_angle"}), ({"angle": 0.0}, {"rkd_distance"}), ({"weight": 0.0}, set())],
)
def test_weight_zero_is_not_computed(settings, left):
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert set(build("rkd", CONTEXT, **settings).loss(step)) == left


def test_settings_reach_the_config_and_there_are_no_modules():
    assert methods.parse("rkd", {"rkd.angle": "0"}).settings()["components"]["rkd"]["angle"] == 0.0
    assert not build("rkd", CONTEXT).state_dict()
