"""MLLD against its formula: values, gradients, schedule; weak and strong view in passes of their own."""

import statistics

import pytest
import torch
import torch.nn.functional as F
from kit import build, fake_features, gradients, make_context, make_step, tiny_info, weights

from benchmark import methods
from benchmark.methods.kd import kd_loss
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request
from results import published

CONTEXT = make_context(tiny_info(), tiny_info())


def step(batch=5, **kwargs):
    students = {
        v: fake_features(CONTEXT.student, batch, seed=k, **kwargs) for k, v in enumerate(("normal", "strong"))
    }
    teachers = {
        v: fake_features(CONTEXT.teacher, batch, seed=k + 2) for k, v in enumerate(("normal", "strong"))
    }
    return make_step(CONTEXT, students, teachers)


def expected(the_step, first):
    """The terms, one image and one entry of a matrix after the other."""
    weak_s, strong_s = (the_step.students[v].logits for v in ("normal", "strong"))
    weak_t, strong_t = (the_step.teachers[v].logits for v in ("normal", "strong"))

    def kd(z_s, z_t, t):
        p, q = torch.softmax(z_t / t, 1), torch.softmax(z_s / t, 1)
        return t**2 * sum((a * (a / b).log()).sum() for a, b in zip(p, q, strict=True)) / len(p)

    def matrices(t, by_class):
        """Squared Frobenius distance of the Gram matrices of the rows, or of the columns."""
        p, q = (torch.softmax(z / t, 1) for z in (weak_t, weak_s))
        p, q = (p.T, q.T) if by_class else (p, q)
        n = len(p)
        return sum((p[i] @ p[j] - q[i] @ q[j]) ** 2 for i in range(n) for j in range(n)) / n

    p = torch.softmax(weak_t, 1)
    sure, total = p.max(dim=1).values.tolist(), p.sum(dim=0).tolist()
    a, c = (sum(x <= statistics.median(xs) for x in xs) / len(xs) for xs in (sure, total))
    five = (first, 3.0, 5.0, 2.0, 6.0)
    return {
        "mlld_instance": a * sum(kd(weak_s, weak_t, t) for t in five)
        + sum(kd(strong_s, strong_t, t) for t in (first, 3.0, 5.0))
        + sum(kd(weak_s, weak_t, t) for t in (2.0, 6.0)),
        "mlld_class": c * sum(matrices(t, by_class=True) for t in five),
        "mlld_batch": a * sum(matrices(t, by_class=False) for t in five),
        "mlld_strong": F.cross_entropy(strong_s, the_step.labels),
    }


@pytest.mark.parametrize(("batch", "first"), [(4, 4.0), (5, 4.0), (5, 2.0)])
def test_value_and_gradient(batch, first):
    the_step = step(batch, requires_grad=True)
    terms, wanted = build("mlld", CONTEXT, temperature=first).loss(the_step), expected(the_step, first)
    assert terms.keys() == wanted.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-12, atol=0.0)
        for view in ("normal", "strong"):
            ours, theirs = (
                torch.autograd.grad(x, the_step.students[view].logits, retain_graph=True, allow_unused=True)[
                    0
                ]
                for x in (value, wanted[name])
            )
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_the_total_is_a_tenth_of_both_cross_entropies_and_nine_tenths_of_the_levels():
    spec, the_step = methods.parse("mlld"), step()
    total, terms = methods.Objective(spec, CONTEXT, lambda name: 0)({"mlld": the_step})
    hard = [F.cross_entropy(the_step.students[v].logits, the_step.labels) for v in ("normal", "strong")]
    soft = sum(terms[f"mlld_{level}"] for level in ("instance", "class", "batch"))
    torch.testing.assert_close(total, 0.1 * sum(hard) + 0.9 * soft)


def test_with_ls_only_the_instance_term_reads_standardised_logits():
    spec, the_step = methods.parse("mlld+ls"), step()
    objective = methods.Objective(spec, CONTEXT, lambda name: 0)
    total, terms = objective({"mlld": the_step, "ls": the_step})

    def standardised(features):
        z = features.logits
        return features.replace(logits=(z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7))

    students, teachers = (
        {view: standardised(features) for view, features in passes.items()}
        for passes in (the_step.students, the_step.teachers)
    )
    first = objective.method("mlld").config.temperature
    wanted = expected(the_step, first)
    p = torch.softmax(the_step.teacher.logits, 1).max(dim=1).values
    unsure = (p <= p.quantile(0.5)).double().mean()
    weak, strong = ((students[v].logits, teachers[v].logits) for v in ("normal", "strong"))
    wanted["mlld_instance"] = (
        sum(unsure * kd_loss(*weak, t) for t in (first, 3.0, 5.0, 2.0, 6.0))
        + sum(kd_loss(*strong, t) for t in (first, 3.0, 5.0))
        + sum(kd_loss(*weak, t) for t in (2.0, 6.0))
    )
    weighted = spec.ce * F.cross_entropy(the_step.student.logits, the_step.labels)
    for term, value in wanted.items():
        torch.testing.assert_close(terms[term], value)
        weighted = weighted + weights(objective.method("mlld"))[term] * value
    torch.testing.assert_close(total, weighted)


def test_gradient_reaches_the_students_logits_alone():
    the_step = step(requires_grad=True)
    views = {"mlld_instance": {"normal", "strong"}, "mlld_strong": {"strong"}}
    for term, value in build("mlld", CONTEXT).loss(the_step).items():
        for view, features in the_step.students.items():
            reached = [part for part, is_reached in gradients(value, features).items() if is_reached]
            assert reached == (["logits"] if view in views.get(term, {"normal"}) else [])


def test_weights():
    assert weights(build("mlld", CONTEXT)) == {
        "mlld_instance": 0.9,
        "mlld_class": 0.9,
        "mlld_batch": 0.9,
        "mlld_strong": 0.1,
    }


def recipe(method, pair, profile="paper"):
    teacher, student = pair.split(":")
    return Resolver().run(Request("cifar100", "mdistiller", profile, teacher, student, method), 0).recipe


@pytest.mark.parametrize(
    ("pair", "epochs", "lr"),
    [
        ("resnet32x4:resnet8x4", 240, 0.025),
        ("vgg13:vgg8", 240, 0.025),
        ("wrn_40_2:MobileNetV2", 240, 0.01),
        ("ResNet50:MobileNetV2", 480, 0.01),
        ("vgg13:MobileNetV2", 480, 0.01),
        ("wrn_40_2:ShuffleV1", 480, 0.01),
        ("resnet32x4:ShuffleV1", 960, 0.01),
        ("resnet32x4:ShuffleV2", 960, 0.01),
    ],
)
def test_epochs_and_learning_rate_are_the_pairs_and_the_milestones_stay(pair, epochs, lr):
    r = recipe("mlld", pair)
    assert (r.epochs, r.milestones, r.lr) == (epochs, (150, 180, 210), lr)
    assert r.lr_at(150) == lr and r.lr_at(151) == pytest.approx(lr / 10)
    assert recipe("mlld", pair, "short").epochs == epochs / 16


def test_with_ls_the_epochs_and_milestones_are_those_of_the_released_logs():
    logs = published.curves(method="mlld+ls")
    for (teacher, student), log in logs.groupby(["teacher", "student"]):
        r = recipe("mlld+ls", f"{teacher}:{student}")
        assert r.epochs == len(log)
        loss = log.set_index("epoch")["train_loss"]
        first = r.milestones[0]
        assert loss[first + 1] < 0.9 * loss[first], "the learning rate drops in epoch 151"
        in_proportion = first * r.epochs // 240
        assert loss[in_proportion + 1] > 0.99 * loss[in_proportion]
    assert len(logs.groupby(["teacher", "student"])) == 12
