"""A share of the training images and label noise in recipes, keys, packs and costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import InputError
from benchmark.spec import cost, matrix, plan, recipes, teacher_cache_rule
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run


def run(method: str = "kd", **settings: Any) -> Run:
    """Return a run on 128 images, or as the settings of the recipe say."""
    recipe = {"train_images": 128, "test_images": 100, **settings}
    overrides = tuple(sorted((f"recipe.{k}", v) for k, v in recipe.items()))
    return Resolver().run(Request("digits", "crd", "quick", "resnet14", "resnet8", method, overrides), 0)


def test_train_images_limits_the_set_and_share_is_a_part_of_it() -> None:
    recipe = run(share=0.25).recipe
    assert (recipe.train_images, recipe.drawn_from) == (32, 128)
    assert (recipe.epochs, recipe.milestones) == (run().recipe.epochs, run().recipe.milestones)
    full = matrix.load_table("hsakd-few-shot")
    by_label = {c.row.label: c for c in matrix.expand(full, "paper").cells}
    for share in (25, 50, 75):
        recipe = by_label[f"KD {share}%"].runs[0].recipe
        assert (recipe.train_images, recipe.drawn_from) == (500 * share, 50_000)
        assert (recipe.epochs, recipe.milestones, recipe.lr) == (240, (150, 180, 210), 0.05)


def test_what_changes_nothing_changes_no_key() -> None:
    usual = run().key
    for settings in (
        {"share": 1.0, "label_noise": 0.0},
        {"subset": "random"},
        {"noise_kind": "uniform"},
        {"share": 1.0, "subset": "random", "label_noise": 0.0, "noise_kind": "uniform"},
    ):
        assert run(**settings).key == usual
    different = [
        {"share": 0.25},
        {"share": 0.25, "subset": "random"},
        {"share": 0.5},
        {"train_images": 32},
        {"label_noise": 0.25},
        {"label_noise": 0.25, "noise_kind": "uniform"},
        {"label_noise": 0.25, "share": 0.25},
    ]
    assert len({usual, *(run(**settings).key for settings in different)}) == 1 + len(different)


def test_teachers_and_their_heads_are_those_of_all_images() -> None:
    for settings in ({"share": 0.25, "subset": "random"}, {"label_noise": 0.5, "noise_kind": "uniform"}):
        usual, chosen = run("sskd"), run("sskd", **settings)
        assert chosen.key != usual.key and chosen.needs_runs == usual.needs_runs
        assert len(usual.needs_runs) == 2
    assert run(train_images=64).needs_runs != run().needs_runs
    table = matrix.load_table("crd-table1")
    options: dict[str, Any] = {"pairs": ["resnet56:resnet20"], "only_methods": ["kd"]}
    usual_cells = matrix.expand(table, "quick", **options).cells
    cells = matrix.expand(table, "quick", overrides=(("recipe.share", 0.5),), **options).cells
    same = {
        c.row.method: [r.key for r in c.runs] == [r.key for r in u.runs]
        for c, u in zip(cells, usual_cells, strict=True)
    }
    assert same == {"teacher": True, "student": False, "kd": False}


def test_packs_are_of_one_choice_and_costs_count_its_images(tmp_path: Path) -> None:
    choices: list[dict[str, Any]] = [
        {},
        {"share": 0.25},
        {"share": 0.25, "subset": "random"},
        {"train_images": 64, "share": 0.5},
        {"label_noise": 0.5},
        {"label_noise": 0.5, "noise_kind": "uniform"},
    ]
    pairs = [(run("kd", **c), run("at", **c)) for c in choices]
    assert all(plan.pack_key(kd) == plan.pack_key(at) for kd, at in pairs)
    assert len({plan.pack_key(kd) for kd, _ in pairs}) == len(choices)
    few, all_images = pairs[1][0], pairs[0][0]
    assert cost.steps(few) * 4 == cost.steps(all_images)
    student = [[p.images for p in cost.student_passes(r)] for r in (few, all_images)]
    assert student[0][0] * 4 == student[1][0], "training"
    assert student[0][-1] == student[1][-1], "tests"
    bank = [
        cost.disk([run("crd", **c)], "all")[1] - cost.disk([run("kd", **c)], "all")[1] for c in choices[:2]
    ]
    assert bank[0] == 4 * bank[1] > 0, "CRD's memory banks"


def test_a_teacher_cache_is_not_made_for_a_part_of_the_images() -> None:
    assert teacher_cache_rule.can_use_cache(run())
    assert teacher_cache_rule.can_use_cache(run(label_noise=0.5)), "the images are the same"
    assert not teacher_cache_rule.can_use_cache(run(share=0.5))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("share=0", "more than 0, up to 1"),
        ("share=1.5", "more than 0, up to 1"),
        ("subset=first", "allowed: stratified, random"),
        ("label_noise=-0.1", "0 to 1"),
        ("label_noise=1.1", "0 to 1"),
        ("noise_kind=asymmetric", "allowed: permute, uniform"),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        matrix.parse_overrides([f"recipe.{setting}"])


def test_a_share_without_room_for_every_class_is_refused() -> None:
    with pytest.raises(InputError, match="cannot have all 10 classes"):
        run(share=0.05)
    with pytest.raises(InputError, match="at least 2 images"):
        run(share=0.01, subset="random")
    assert run(share=0.05, subset="random").recipe.train_images == 6


def test_a_run_is_restored_from_its_order() -> None:
    for settings in ({"share": 0.25, "subset": "random"}, {"label_noise": 0.5, "noise_kind": "uniform"}):
        ordered = run(**settings)
        assert Resolver().from_order(ordered.order()) == ordered


def test_every_field_that_only_students_have_can_be_set() -> None:
    assert set(recipes.STUDENT_ONLY) <= set(recipes.RECIPE_FIELDS)
