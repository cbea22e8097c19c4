"""DLKD against its formulas in plain loops; its variants, its ablation, its use without labels and logits."""

import dataclasses
import itertools
import json
import math

import pytest
import torch
from kit import (
    Unreadable,
    batches,
    build,
    context_for,
    fake_features,
    gradients,
    make_context,
    make_step,
    no_sync,
    real_step,
    tiny_info,
    weights,
)
from torch import Tensor, nn

from benchmark import methods
from benchmark.data.views import NORMAL, ROTATED
from benchmark.errors import InputError
from benchmark.methods import MethodContext, Objective, Step
from benchmark.methods.dlkd import supervised_contrast
from models import Features

B, CLASSES = 3, 7
STUDENT, TEACHER = tiny_info(embedding=4), tiny_info(embedding=3)
Rows = list[list[float]]


# --- the formula in plain loops ---


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(row: list[float]) -> list[float]:
    return [x / math.sqrt(dot(row, row)) for x in row]


def linear(layer: nn.Linear, rows: Rows) -> Rows:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [[dot(w, row) + b for w, b in zip(weight, bias, strict=True)] for row in rows]


def run_head(head: nn.Sequential, rows: Rows) -> Rows:
    """Linear, batch norm with these rows' statistics (weight 1, bias 0 as initialised), ReLU, Linear."""
    hidden = linear(head[0], rows)
    for j in range(len(hidden[0])):
        column = [row[j] for row in hidden]
        mean = sum(column) / len(column)
        var = sum((x - mean) ** 2 for x in column) / len(column)
        for row in hidden:
            row[j] = max(0.0, (row[j] - mean) / math.sqrt(var + 1e-5))
    return linear(head[3], hidden)


def expected_align(head: nn.Sequential, student: Rows, teacher: Rows) -> float:
    pairs = list(zip(run_head(head, student), teacher, strict=True))
    return 2 - 2 * sum(dot(unit(a), unit(b)) for a, b in pairs) / len(pairs)


def expected_corr(head: nn.Sequential, student: Rows, teacher: Rows, temperature: float) -> float:
    projected, total = run_head(head, student), 0.0
    for r in range(B, 4 * B):
        p, q = (
            [math.exp(dot(unit(x[r]), unit(x[j])) / temperature) for j in range(B)]
            for x in (teacher, projected)
        )
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return total / (3 * B)


def expected_contrast(vectors: Rows, labels: list[int], temperature: float) -> float:
    n, total = len(vectors), 0.0
    for i in range(n):
        others = [a for a in range(n) if a != i]
        bottom = sum(math.exp(dot(vectors[i], vectors[a]) / temperature) for a in others)
        same = [p for p in others if labels[p] == labels[i]]
        total += sum(
            -math.log(math.exp(dot(vectors[i], vectors[p]) / temperature) / bottom) for p in same
        ) / len(same)
    return total / n


# --- value and gradients ---


def context() -> MethodContext:
    return make_context(STUDENT, TEACHER, num_classes=CLASSES)


def both_views(info, seed: int, requires_grad: bool = False) -> dict[str, Features]:
    draw = {"num_classes": CLASSES, "requires_grad": requires_grad}
    return {
        "normal": fake_features(info, B, seed=seed, **draw),
        "rotated": fake_features(info, 3 * B, seed=seed + 1, **draw),
    }


def step(requires_grad: bool = False) -> Step:
    labels = torch.tensor([2, 5, 2])
    return make_step(
        context(), both_views(STUDENT, 10, requires_grad), both_views(TEACHER, 20), labels=labels
    )


def rows_of(views: dict[str, Features]) -> Rows:
    """Upright images, then all images rotated once, twice, three times: row r is image r % B."""
    return views["normal"].embedding.tolist() + views["rotated"].embedding.tolist()


@pytest.mark.parametrize(("corr_temperature", "sup_temperature"), [(0.5, 0.07), (0.2, 0.3)])
def test_dlkd_value(corr_temperature: float, sup_temperature: float) -> None:
    method = build("dlkd", context(), corr_temperature=corr_temperature, sup_temperature=sup_temperature)
    s = step()
    terms = method.loss(s)
    student, teacher = rows_of(s.students), rows_of(s.teachers)
    vectors = linear(method.student_embedding, student) + linear(method.teacher_embedding, teacher)
    expected = {
        "dlkd_align": expected_align(method.align_head, student, teacher),
        "dlkd_corr": expected_corr(method.corr_head, student, teacher, corr_temperature),
        "dlkd_sup": expected_contrast([unit(v) for v in vectors], [2, 5, 2] * 8, sup_temperature),
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-10)


def test_contrast_is_zero_without_vectors_of_other_classes() -> None:
    """Of two vectors of one class, each has the other as its only positive and its only other vector."""
    pair = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert supervised_contrast(pair, torch.tensor([4, 4]), 0.07).item() == pytest.approx(0.0, abs=1e-12)
    four = torch.cat([pair, pair])
    apart, mixed = (
        supervised_contrast(four, torch.tensor(y), 1.0).item() for y in ([0, 1, 0, 1], [0, 0, 1, 1])
    )
    # by hand: each vector has similarity 1 to its copy and 0 to the two others
    assert apart == pytest.approx(math.log(math.e + 2) - 1, rel=1e-12)
    assert mixed == pytest.approx(math.log(math.e + 2), rel=1e-12)


def test_heads_have_the_released_codes_widths() -> None:
    method = build("dlkd", context())
    s, t = 4, 3
    shapes = {
        name: tuple(p.shape)
        for name, p in method.named_parameters()
        if name.endswith("weight") and p.dim() == 2
    }
    assert shapes == {
        "align_head.0.weight": (16 * t, s),
        "align_head.3.weight": (t, 16 * t),
        "corr_head.0.weight": (s, s),
        "corr_head.3.weight": (s, s),
        "student_embedding.weight": (128, s),
        "teacher_embedding.weight": (128, t),
    }


def test_dlkd_gradients() -> None:
    method = build("dlkd", context())
    s = step(requires_grad=True)
    with no_sync():
        terms = method.loss(s)
    for name, term in terms.items():
        for view in ("normal", "rotated"):
            reached = gradients(term, s.students[view])
            assert [part for part, is_reached in reached.items() if is_reached] == ["embedding"], name
    trained = {
        name: [n for n, p in method.named_parameters() if has_gradient(term, p)]
        for name, term in terms.items()
    }
    assert {k: {n.partition(".")[0] for n in v} for k, v in trained.items()} == {
        "dlkd_align": {"align_head"},
        "dlkd_corr": {"corr_head"},
        "dlkd_sup": {"student_embedding", "teacher_embedding"},
    }


def has_gradient(term: Tensor, parameter: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(term, parameter, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.any())


# --- weights: variants and ablation ---


@pytest.mark.parametrize(
    ("settings", "resolved", "variant"),
    [
        ({}, (20.0, 50.0, 1.0), "script"),
        ({"variant": "paper"}, (10.0, 20.0, 0.5), "paper"),
        ({"align": 10.0, "corr": 20.0, "sup": 0.5}, (10.0, 20.0, 0.5), "paper"),
        ({"variant": "paper", "align": 20.0, "corr": 50.0, "sup": 1.0}, (20.0, 50.0, 1.0), "script"),
        ({"variant": "paper", "sup": 0.0}, (10.0, 20.0, 0.0), "custom"),
        ({"corr": 10.0}, (20.0, 10.0, 1.0), "custom"),
    ],
)
def test_resolved_weights_are_used_and_recorded(
    settings: dict, resolved: tuple[float, ...], variant: str
) -> None:
    spec = methods.parse("dlkd", {f"dlkd.{k}": v for k, v in settings.items()})
    recorded = spec.settings()["components"]["dlkd"]
    assert (recorded["align"], recorded["corr"], recorded["sup"], recorded["variant"]) == (*resolved, variant)
    assert spec.ce == 1.0
    method = Objective(spec, context(), lambda name: 5).method("dlkd")
    assert tuple(weights(method).values()) == resolved


def test_the_same_weights_given_in_two_ways_are_one_run() -> None:
    named = methods.parse("dlkd", {"dlkd.variant": "paper"})
    spelled = methods.parse("dlkd", {"dlkd.align": 10.0, "dlkd.corr": 20.0, "dlkd.sup": 0.5})
    assert named.settings() == spelled.settings() != methods.parse("dlkd").settings()
    config = named.components[0].config
    assert type(config)(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "mlkd"}, "allowed: script, paper"),
        ({"align": -2.0}, "dlkd.align=-2.0 is out of range; allowed: at least 0"),
        ({"sup_temperature": 0.0}, "dlkd.sup_temperature=0.0 is out of range; allowed: above 0"),
        ({"embedding": 0}, "dlkd.embedding=0 is out of range; allowed: at least 1"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        methods.parse("dlkd", {f"dlkd.{k}": v for k, v in settings.items()})


def test_unknown_variant_of_a_config() -> None:
    with pytest.raises(InputError, match="allowed: script, paper"):
        methods.get("dlkd").Config(variant="custom")


MODULES = {"align": {"align_head"}, "corr": {"corr_head"}, "sup": {"student_embedding", "teacher_embedding"}}


@pytest.mark.parametrize("on", [c for k in range(4) for c in itertools.combinations(MODULES, k)])
def test_ablation(on: tuple[str, ...]) -> None:
    """A term of weight 0 is not computed, its modules are not built, and the others keep their values."""
    off = {term: 0.0 for term in MODULES if term not in on}
    method_class = methods.get("dlkd")
    needs = method_class.needs(method_class.Config(**off))
    assert needs.teacher == ({"embedding"} if on else set())
    assert needs.passes == needs.views[: 2 if on else 0] and needs.views == (
        (NORMAL, ROTATED) if on else (NORMAL,)
    )
    method, full = build("dlkd", context(), **off), build("dlkd", context())
    assert {name for name, _ in method.named_children()} == {m for term in on for m in MODULES[term]}
    method.load_state_dict({k: v for k, v in full.state_dict().items() if k in method.state_dict()})
    s = step()
    only = dataclasses.replace(
        s,
        students={v.name: s.students[v.name].select(frozenset({"embedding"})) for v in needs.views},
        teachers={v.name: s.teachers[v.name].select(frozenset({"embedding"})) for v in needs.passes},
    )
    terms, expected = method.loss(only), full.loss(s)
    assert terms.keys() == {f"dlkd_{term}" for term in on}
    assert {k: v.item() for k, v in terms.items()} == {k: expected[k].item() for k in terms}


def test_without_labels_and_logits() -> None:
    """align + corr with ce = 0 needs no classes of the teacher: reading labels or logits is an error here."""
    spec = methods.parse("dlkd", {"dlkd.sup": 0.0, "ce": 0.0})
    objective = Objective(spec, context(), lambda name: 5).double()
    s = step()
    blind = dataclasses.replace(
        s,
        labels=Unreadable(),
        students={k: v.select(frozenset({"embedding"})) for k, v in s.students.items()},
        teachers={k: v.select(frozenset({"embedding"})) for k, v in s.teachers.items()},
    )
    total, terms = objective({"dlkd": blind})
    assert terms.keys() == {"dlkd_align", "dlkd_corr"}
    assert total.item() == pytest.approx(
        (20 * terms["dlkd_align"] + 50 * terms["dlkd_corr"]).item(), rel=1e-12
    )
    with pytest.raises(methods.MethodError, match="a tensor was read"):
        Objective(methods.parse("dlkd", {"ce": 0.0}), context(), lambda name: 5).double()({"dlkd": blind})


def test_with_kd_both_are_added() -> None:
    spec = methods.parse("dlkd+kd")
    objective = Objective(spec, context(), lambda name: 5).double()
    s = step()
    total, terms = objective({"dlkd": s, "kd": s})
    parts = terms["ce"] + terms["kd"] + 20 * terms["dlkd_align"] + 50 * terms["dlkd_corr"] + terms["dlkd_sup"]
    assert total.item() == pytest.approx(parts.item(), rel=1e-12)
    assert terms["kd"].item() > 0
    needs = spec.needs()
    assert needs.student == needs.teacher == {"logits", "embedding"}
    assert needs.views == needs.passes == (NORMAL, ROTATED)


# --- with real networks ---


def test_dlkd_on_real_networks_and_a_smaller_last_batch() -> None:
    method_class = methods.get("dlkd")
    real = context_for(method_class, n=18, batch_size=8)
    method = build("dlkd", real, dtype=torch.float32)
    needs = method_class.needs(method.config)
    for indices in batches(method_class, real):
        terms = method.loss(real_step(real, needs, indices))
        total = sum(weights(method)[k] * v for k, v in terms.items())
        assert total.dtype == torch.float32 and bool(total.isfinite())
    total.backward()
    assert all(p.grad is not None for n, p in real.student_net.named_parameters() if not n.startswith("fc"))
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in method.parameters())
    assert all(p.grad is None for p in real.teacher_net.parameters())
