"""SSKD and its teacher's head against plain loops; their rows go image by image, as in SSKD's code."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit import (
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
from benchmark.methods import Method, MethodContext, Objective, Step
from benchmark.methods._rotations import rank_of_truth, select_rows
from models import Features

B, CLASSES = 5, 7
STUDENT, TEACHER = tiny_info(embedding=4), tiny_info(embedding=6)
Rows = list[list[float]]


# --- the formula in plain loops -----------------------------------------------------------------------------


def softmax(row: list[float], temperature: float) -> list[float]:
    exps = [math.exp(v / temperature) for v in row]
    return [e / sum(exps) for e in exps]


def kl(teacher: list[float], student: list[float], temperature: float) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))


def run_head(head: nn.Sequential, row: list[float]) -> list[float]:
    (w1, b1), (w2, b2) = ((layer.weight.tolist(), layer.bias.tolist()) for layer in (head[0], head[2]))
    hidden = [
        max(0.0, sum(w * x for w, x in zip(ws, row, strict=True)) + b) for ws, b in zip(w1, b1, strict=True)
    ]
    return [sum(w * x for w, x in zip(ws, hidden, strict=True)) + b for ws, b in zip(w2, b2, strict=True)]


def image_by_image(rotated: Tensor) -> Rows:
    """Reorder the rows of the rotated view: the 3 rotated copies of image 0, then those of image 1, ..."""
    batch = len(rotated) // 3
    return [rotated[turn * batch + image].tolist() for image in range(batch) for turn in range(3)]


def cosines(head: nn.Sequential, normal: Tensor, rotated: Tensor) -> Rows:
    columns = [run_head(head, row) for row in normal.tolist()]
    return [[cosine(run_head(head, row), column) for column in columns] for row in image_by_image(rotated)]


def kept_rows(teacher: Rows, truth: list[int], ratio: float) -> list[int]:
    ranks = [sorted(row, reverse=True).index(row[t]) for row, t in zip(teacher, truth, strict=True)]
    right = [r for r, rank in enumerate(ranks) if rank == 0]
    wrong = sorted((r for r, rank in enumerate(ranks) if rank > 0), key=lambda r: ranks[r])
    return right + wrong[: math.floor(ratio * len(wrong))]


def kept_kl(teacher: Rows, student: Rows, truth: list[int], temperature: float, ratio: float) -> float:
    kept = kept_rows(teacher, truth, ratio)
    return temperature**2 * sum(kl(teacher[r], student[r], temperature) for r in kept) / len(kept)


# --- the pieces under test ----------------------------------------------------------------------------------


def sskd_context() -> MethodContext:
    plain = make_context(STUDENT, TEACHER, num_classes=CLASSES)
    return dataclasses.replace(
        plain, artifacts={"sskd_head": build("sskd_head", head_context(), seed=3).state_dict()}
    )


def head_context() -> MethodContext:
    return make_context(None, TEACHER, num_classes=CLASSES)


def both_views(info, seed: int, requires_grad: bool = False) -> dict[str, Features]:
    draw = {"num_classes": CLASSES, "requires_grad": requires_grad}
    return {
        "normal": fake_features(info, B, seed=seed, **draw),
        "rotated": fake_features(info, 3 * B, seed=seed + 1, **draw),
    }


def step(context: MethodContext, requires_grad: bool = False) -> Step:
    labels = torch.tensor([2, 0, 6, 2, 1])
    return make_step(context, both_views(STUDENT, 10, requires_grad), both_views(TEACHER, 20), labels=labels)


@pytest.mark.parametrize(("tf_ratio", "ss_ratio"), [(1.0, 0.75), (0.6, 0.3), (0.5, 1.0)])
def test_sskd_value(tf_ratio: float, ss_ratio: float) -> None:
    method = build("sskd", sskd_context(), tf_ratio=tf_ratio, ss_ratio=ss_ratio)
    s = step(sskd_context())
    terms = method.loss(s)
    s_normal, t_normal = s.student.logits.tolist(), s.teacher.logits.tolist()
    s_rotated, t_rotated = (image_by_image(x["rotated"].logits) for x in (s.students, s.teachers))
    a_s = cosines(method.student_head, s.student.embedding, s.students["rotated"].embedding)
    a_t = cosines(method.teacher_head, s.teacher.embedding, s.teachers["rotated"].embedding)
    labels = [int(y) for y in s.labels for _ in range(3)]
    images = [i for i in range(B) for _ in range(3)]
    expected = {
        "sskd_kd": 16 * sum(kl(t, z, 4.0) for t, z in zip(t_normal, s_normal, strict=True)) / B,
        "sskd_tf": kept_kl(t_rotated, s_rotated, labels, 4.0, tf_ratio),
        "sskd_ss": kept_kl(a_t, a_s, images, 0.5, ss_ratio),
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-10)
    assert weights(method) == {"sskd_kd": 0.9, "sskd_tf": 2.7, "sskd_ss": 10.0}


def test_sskd_total_is_the_weighted_sum() -> None:
    spec = methods.parse("sskd")
    objective = Objective(spec, sskd_context(), lambda name: 5).double()
    s = step(sskd_context())
    total, terms = objective({"sskd": s})
    rows = zip(s.student.logits.tolist(), s.labels.tolist(), strict=True)
    ce = -sum(math.log(softmax(row, 1.0)[y]) for row, y in rows) / B
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-10)
    parts = [
        0.1 * ce,
        0.9 * terms["sskd_kd"].item(),
        2.7 * terms["sskd_tf"].item(),
        10.0 * terms["sskd_ss"].item(),
    ]
    assert total.item() == pytest.approx(sum(parts), rel=1e-10)


@given(st.data())
def test_selection_of_rows(data: st.DataObject) -> None:
    """Every first-ranked row is kept, and the best floor(ratio * W) of the W others."""
    ranks = data.draw(
        st.integers(2, 6).flatmap(lambda b: st.lists(st.integers(0, 4), min_size=3 * b, max_size=3 * b))
    )
    ratio = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.7, 0.75, 1.0]))
    keep = select_rows(torch.tensor(ranks), ratio).tolist()
    wrong = sum(r > 0 for r in ranks)
    assert sum(keep) == len(ranks) - wrong + int(ratio * wrong)
    assert all(k for k, r in zip(keep, ranks, strict=True) if r == 0)
    left_out = [r for k, r in zip(keep, ranks, strict=True) if not k]
    assert not left_out or max((r for k, r in zip(keep, ranks, strict=True) if k), default=0) <= min(left_out)


def test_selection_breaks_ties_image_by_image() -> None:
    # 2 images, 6 rows of equal rank. floor(0.75 * 6) = 4 rows are kept: the three copies of image 0 and the
    # first copy of image 1.
    assert select_rows(torch.ones(6, dtype=torch.int64), 0.75).tolist() == [
        True,
        True,
        True,
        False,
        True,
        False,
    ]


def test_rank_of_truth_counts_ties_as_a_stable_sort() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [5.0, 1.0, 9.0]])
    assert rank_of_truth(scores, torch.tensor([1, 2, 2, 1])).tolist() == [0, 1, 2, 2]


def test_true_column_is_the_image_itself() -> None:
    """If the teacher's embedding is the same for all copies of an image, every row is kept."""
    method = build("sskd", sskd_context(), ss_ratio=0.0)
    s = step(sskd_context())
    alike = s.teacher.replace(embedding=s.teacher.embedding.repeat(3, 1), logits=s.teachers["rotated"].logits)
    everything = build("sskd", sskd_context(), ss_ratio=1.0)
    same = dataclasses.replace(s, teachers={"normal": s.teacher, "rotated": alike})
    assert method.loss(same)["sskd_ss"].item() == pytest.approx(
        everything.loss(same)["sskd_ss"].item(), rel=1e-12
    )
    mixed = alike.replace(embedding=s.teacher.embedding.repeat_interleave(3, 0))
    wrong = dataclasses.replace(s, teachers={"normal": s.teacher, "rotated": mixed})
    assert method.loss(wrong)["sskd_ss"].item() != pytest.approx(
        everything.loss(wrong)["sskd_ss"].item(), rel=1e-6
    )


def test_no_row_kept_is_zero_not_nan() -> None:
    method = build("sskd", sskd_context(), tf_ratio=0.0, kd=0.0, ss=0.0)
    s = step(sskd_context(), requires_grad=True)
    never = s.teachers["rotated"].logits.clone()
    never[torch.arange(3 * B), s.labels.repeat(3)] = -9.0
    teachers = {**s.teachers, "rotated": s.teachers["rotated"].replace(logits=never)}
    loss = method.loss(dataclasses.replace(s, teachers=teachers))["sskd_tf"]
    assert loss.item() == 0.0
    assert not gradients(loss, s.students["rotated"])["logits"]


def test_sskd_gradients() -> None:
    method = build("sskd", sskd_context())
    s = step(sskd_context(), requires_grad=True)
    with no_sync():
        terms = method.loss(s)
    total = sum(weights(method)[k] * v for k, v in terms.items())
    for view in ("normal", "rotated"):
        assert gradients(total, s.students[view]) == {
            "stem": False,
            "stages": False,
            "preacts": False,
            "embedding": True,
            "logits": True,
        }
    total.backward()
    assert all(bool(p.grad.any()) for p in method.student_head.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher_head.parameters())


def test_teacher_head_has_the_weights_of_stage_a() -> None:
    context = sskd_context()
    method = build("sskd", context, seed=8)
    left = context.artifacts["sskd_head"]
    assert left.keys() == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}
    for key, value in method.teacher_head.state_dict().items():
        assert torch.equal(value, left[f"head.{key}"].double())


@pytest.mark.parametrize("left", [{}, {"sskd_head": {}}])
def test_missing_head_is_an_input_error(left: dict) -> None:
    with pytest.raises(InputError, match="projection head is missing; run `sskd_head`"):
        build("sskd", dataclasses.replace(sskd_context(), artifacts=left))


def test_head_of_another_teacher_is_an_input_error() -> None:
    other = build("sskd_head", make_context(None, tiny_info(embedding=9)))
    with pytest.raises(InputError, match="does not fit the teacher's embedding of size 6; run `sskd_head`"):
        build("sskd", dataclasses.replace(sskd_context(), artifacts={"sskd_head": other.state_dict()}))


WITHOUT = {
    # weights off -> (student parts, teacher parts, student views, teacher passes, prerequisites)
    (): (
        {"logits", "embedding"},
        {"logits", "embedding"},
        (NORMAL, ROTATED),
        (NORMAL, ROTATED),
        ("sskd_head",),
    ),
    ("kd",): (
        {"logits", "embedding"},
        {"logits", "embedding"},
        (NORMAL, ROTATED),
        (NORMAL, ROTATED),
        ("sskd_head",),
    ),
    ("tf",): (
        {"logits", "embedding"},
        {"logits", "embedding"},
        (NORMAL, ROTATED),
        (NORMAL, ROTATED),
        ("sskd_head",),
    ),
    ("kd", "tf"): (
        {"logits", "embedding"},
        {"embedding"},
        (NORMAL, ROTATED),
        (NORMAL, ROTATED),
        ("sskd_head",),
    ),
    ("ss",): ({"logits"}, {"logits"}, (NORMAL, ROTATED), (NORMAL, ROTATED), ()),
    ("kd", "ss"): ({"logits"}, {"logits"}, (NORMAL, ROTATED), (ROTATED,), ()),
    ("tf", "ss"): ({"logits"}, {"logits"}, (NORMAL,), (NORMAL,), ()),
    ("kd", "tf", "ss"): ({"logits"}, set(), (NORMAL,), (), ()),
}


@pytest.mark.parametrize("off", WITHOUT)
def test_terms_of_weight_zero_are_not_computed_and_need_nothing(off: tuple[str, ...]) -> None:
    method_class = methods.get("sskd")
    config = method_class.Config(**dict.fromkeys(off, 0.0))
    needs = method_class.needs(config)
    student, teacher, views, passes, before = WITHOUT[off]
    assert (needs.student, needs.teacher, needs.views, needs.passes) == (student, teacher, views, passes)
    assert method_class.requires(config) == before
    context = sskd_context() if before else make_context(STUDENT, TEACHER, num_classes=CLASSES)
    method = build("sskd", context, **dict.fromkeys(off, 0.0))
    s = step(context)
    only = dataclasses.replace(
        s,
        students={v.name: s.students[v.name].select(needs.student) for v in views},
        teachers={v.name: s.teachers[v.name].select(needs.teacher) for v in passes},
    )
    terms = method.loss(only)
    assert terms.keys() == {f"sskd_{t}" for t in ("kd", "tf", "ss") if t not in off}
    full = build("sskd", sskd_context()).loss(s)
    for name in terms.keys() - {"sskd_ss"}:
        assert terms[name].item() == full[name].item()
    assert bool(list(method.parameters())) == ("ss" not in off)


OUT_OF_RANGE = [("ss_ratio", 1.5), ("tf_ratio", -0.1), ("ss_temperature", 0.0), ("tf", -1.0)]


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"sskd\.{key}=.* is out of range; allowed"):
        methods.parse("sskd", {f"sskd.{key}": value})


def test_in_a_combination_with_kd_there_is_one_kd_term() -> None:
    spec = methods.parse("kd+sskd")
    assert spec.name == "sskd+kd" and spec.ce == 1.0
    assert spec.requires == ("sskd_head",)
    objective = Objective(spec, sskd_context(), lambda name: 5).double()
    s = step(sskd_context())
    total, terms = objective({"sskd": s, "kd": s})
    assert terms.keys() == {"sskd_tf", "sskd_ss", "kd", "ce"}
    expected = terms["ce"] + terms["kd"] + 2.7 * terms["sskd_tf"] + 10.0 * terms["sskd_ss"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    back = Objective(methods.parse("sskd+kd", {"sskd.kd": 0.9}), sskd_context(), lambda name: 5).double()
    total_with_both, both_terms = back({"sskd": s, "kd": s})
    assert both_terms["sskd_kd"].item() == pytest.approx(both_terms["kd"].item(), rel=1e-12)
    assert total_with_both.item() == pytest.approx((expected + 0.9 * terms["kd"]).item(), rel=1e-10)


# --- the teacher's head -------------------------------------------------------------------------------------


def test_head_value_and_gradients() -> None:
    method = build("sskd_head", head_context(), seed=3)
    teachers = both_views(TEACHER, 20)
    s = make_step(head_context(), None, teachers, labels=torch.zeros(B, dtype=torch.int64))
    with no_sync():
        loss = method.loss(s)["sskd_head"]
    rows = cosines(method.head, teachers["normal"].embedding, teachers["rotated"].embedding)
    expected = -sum(math.log(softmax(row, 1.0)[r // 3]) for r, row in enumerate(rows)) / (3 * B)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    loss.backward()
    assert all(bool(p.grad.any()) for p in method.head.parameters())


def test_head_trains_alone_on_a_teacher() -> None:
    head = methods.get("sskd_head")
    needs = methods.parse("sskd_head").needs()
    assert not head.trains_student and needs.student == frozenset()
    assert needs.teacher == {"embedding"} and needs.passes == (NORMAL, ROTATED)
    assert head.schedule() == {"epochs": 60, "milestones": (30, 45)}
    assert head.skip(head.Config(), None, TEACHER) is None
    assert "no student" in (head.skip(head.Config(), STUDENT, TEACHER) or "")
    with pytest.raises(InputError, match="trains no student"):
        methods.parse("sskd_head+kd")


def test_head_learns_to_find_the_image() -> None:
    """On a frozen teacher's embeddings, a few steps bring the loss below that of guessing, log B."""
    context = context_for(methods.get("sskd_head"), batch_size=8)
    method = build("sskd_head", context, dtype=torch.float32)
    needs = methods.get("sskd_head").needs(method.config)
    s = real_step(context, needs, torch.arange(8))
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        loss = method.loss(s)["sskd_head"]
        loss.backward()
        optimizer.step()
    assert loss.item() < math.log(8)
    assert all(p.grad is None for p in context.teacher_net.parameters())


# --- with real networks -------------------------------------------------------------------------------------


def test_sskd_on_real_networks_and_a_smaller_last_batch() -> None:
    context = context_for(methods.get("sskd"), n=19, batch_size=8)
    method: Method = build("sskd", context, dtype=torch.float32)
    needs = methods.parse("sskd").needs()
    for indices in batches(methods.get("sskd"), context):
        s = real_step(context, needs, indices)
        assert len(s.students["rotated"].logits) == 3 * len(indices)
        total = sum(weights(method)[k] * v for k, v in method.loss(s).items())
        assert total.dtype == torch.float32 and bool(total.isfinite())
    context.student_net.zero_grad()
    total.backward()
    assert all(p.grad is not None for p in context.student_net.parameters())
    assert all(p.grad is None for p in context.teacher_net.parameters())
