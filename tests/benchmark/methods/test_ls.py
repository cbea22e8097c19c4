"""LS against its formula in plain loops; its constants; it cannot be used alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from kit import build, fake_features, make_context, make_step, tiny_info, weights

from benchmark import methods
from benchmark.errors import InputError
from benchmark.methods.ls import standardise
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request

CONTEXT = make_context(tiny_info(), tiny_info())


def in_loops(logits):
    rows = []
    for row in logits.tolist():
        mean = sum(row) / len(row)
        std = math.sqrt(sum((z - mean) ** 2 for z in row) / (len(row) - 1))
        rows.append([(z - mean) / (std + 1e-7) for z in row])
    return torch.tensor(rows, dtype=torch.float64)


def test_value():
    logits = fake_features(CONTEXT.student).logits
    torch.testing.assert_close(standardise(logits), in_loops(logits), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["kd", "dkd", "rkd+kd"])
def test_only_the_wrapped_methods_read_standardised_logits(method):
    student, teacher = fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1)
    step = make_step(CONTEXT, student, teacher)
    spec = methods.parse(f"{method}+ls")
    objective = methods.Objective(spec, CONTEXT, lambda name: 0)
    total, terms = objective({c.method.name: step for c in spec.components})
    changed = make_step(
        CONTEXT,
        student.replace(logits=in_loops(student.logits)),
        teacher.replace(logits=in_loops(teacher.logits)),
    )
    weighted = spec.ce * F.cross_entropy(student.logits, step.labels)
    for m in objective:
        for term, value in m.loss(changed).items():
            torch.testing.assert_close(terms[term], value)
            weighted = weighted + weights(m)[term] * value
    torch.testing.assert_close(total, weighted)


def test_scale_and_shift_of_the_logits_do_not_matter():
    student, teacher = fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1)
    ls, kd = build("ls", CONTEXT), build("kd", CONTEXT)

    def value(a, b):
        return kd.loss(ls.transform(make_step(CONTEXT, a, b)))["kd"]

    moved = teacher.replace(logits=7 * teacher.logits + 3)
    torch.testing.assert_close(value(student, teacher), value(student, moved), rtol=1e-6, atol=0)


def test_a_teacher_pass_without_logits_is_left_unchanged():
    student, teacher = fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1)
    step = make_step(
        CONTEXT, student, {"normal": teacher, "rotated": teacher.select(frozenset({"embedding"}))}
    )
    transformed = build("ls", CONTEXT).transform(step)
    assert not transformed.teachers["rotated"].has("logits")
    torch.testing.assert_close(transformed.teacher.logits, in_loops(teacher.logits))


def test_equal_logits_have_a_finite_gradient():
    z = torch.zeros(2, 5, requires_grad=True)
    (standardise(z) * torch.arange(5)).sum().backward()
    assert z.grad.isfinite().all()


def test_gradient_check():
    z = fake_features(CONTEXT.student, 2, requires_grad=True).logits
    assert torch.autograd.gradcheck(standardise, z)


def test_constants_depend_on_the_pair_unless_set():
    def kd(pair, **settings):
        teacher, student = pair.split(":")
        config = methods.parse(
            "kd+ls", {k.replace("__", "."): v for k, v in settings.items()}, teacher, student
        )
        return config.ce, config.components[0].config.temperature, config.components[0].config.weight

    assert kd("resnet56:resnet20") == (0.1, 2.0, 9.0)
    assert kd("resnet110:resnet20") == (0.1, 4.0, 12.0)
    assert kd("resnet110:resnet20", kd__weight=1.0) == (0.1, 4.0, 1.0)
    dkd = methods.parse("ls+dkd", {}, "wrn_40_2", "wrn_16_2")
    assert dkd.name == "dkd+ls" and dkd.ce == 1.0
    config = dkd.components[0].config
    assert (config.temperature, config.alpha, config.beta) == (2.0, 12.0, 24.0)
    assert methods.parse("at+kd+ls").ce == 1.0, "a combination of losses"


@pytest.mark.parametrize("text", ["ls", "at+ls"])
def test_it_needs_a_method_that_reads_logits(text):
    with pytest.raises(InputError, match=r"kd\+ls"):
        methods.parse(text)


def test_a_runs_settings_hold_the_constants_of_its_pair():
    def settings(pair):
        teacher, student = pair.split(":")
        run = Resolver().run(Request("cifar100", "crd", "paper", teacher, student, "kd+ls"), 0)
        return run.settings["method"]["components"]["kd"]

    assert (
        settings("vgg13:vgg8")["temperature"] == 3.0 and settings("resnet56:resnet20")["temperature"] == 2.0
    )
