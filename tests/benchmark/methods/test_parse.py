"""Finding methods, combining them, their settings, and the objective; wrong input gives a one-line error."""

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit import fake_features, make_context, make_step, tiny_info

from benchmark import methods
from benchmark.__main__ import main
from benchmark.errors import InputError
from benchmark.methods import Objective, check_override, parse

CONTEXT = make_context(tiny_info(), tiny_info())

TOY = """
from __future__ import annotations

from dataclasses import dataclass

from benchmark.data.samplers import Sampler
from benchmark.methods.base import Method, MethodConfig, Needs, param


@dataclass(frozen=True, kw_only=True)
class ToyConfig(MethodConfig):
    weight: float = param(1.0, "weight", "nowhere")
    times: int = param(3, "a number", "nowhere")
    flag: bool = param(False, "a switch", "nowhere")
    kind: str = param("one", "a word", "nowhere", allowed=("one", "two"))


class {cls}(Method):
    name = "{name}"
    Config = ToyConfig
    {body}
"""


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """`toys(name=body)` writes a method file of this name and class body, and registers it."""

    def write(**bodies):
        for name, body in bodies.items():
            (tmp_path / f"{name}.py").write_text(TOY.format(cls=name.title(), name=name, body=body))
        monkeypatch.setenv("KD_METHODS", str(tmp_path))
        methods.clear_cache()
        return tmp_path

    yield write
    monkeypatch.undo()
    methods.clear_cache()


def fails(match, text, overrides=None):
    with pytest.raises(InputError, match=match) as caught:
        parse(text, overrides)
    assert "\n" not in str(caught.value)


# --- names ------------------------------------------------------------------------------------------------


def test_order_does_not_matter():
    assert parse("kd+at") == parse("at+kd") == parse(" at + kd ")
    assert parse("kd+at").name == "at+kd"
    assert parse("vid+kd+at").name == "at+vid+kd"
    assert parse("kd+at").settings() == parse("at+kd").settings()


def test_plain_has_no_components():
    spec = parse("plain")
    assert (spec.name, spec.components, spec.ce) == ("plain", (), 1.0)
    assert not spec.needs_teacher and spec.trains_student and spec.skip(None, None) is None
    assert spec.needs().student == {"logits"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("fitnett", r"unknown method 'fitnett' \(did you mean fitnet\?\); allowed: plain, .*at.*kd"),
        ("kd+nope", r"unknown method 'nope'.*; allowed: "),
        ("", r"unknown method ''.*; allowed: "),
        ("kd+", r"unknown method ''.*; allowed: "),
        ("KD", r"unknown method 'KD'.*; allowed: "),
        ("at+at", r"'at\+at' contains a method twice; name each method once"),
        ("plain+kd", r"method 'plain\+kd': `plain` cannot be combined with other methods"),
        (
            "sskd_head+kd",
            r"'sskd_head\+kd': a method that trains no student cannot be combined with other methods",
        ),
    ],
)
def test_wrong_names(text, match):
    fails(match, text)


# --- settings ---------------------------------------------------------------------------------------------


def test_settings_reach_the_config():
    spec = parse("kd", {"kd.temperature": "2.5", "kd.weight": 3})
    config = spec.components[0].config
    assert (config.temperature, config.weight, config.ce) == (2.5, 3.0, 0.1)
    assert type(config.weight) is float


def test_settings_of_other_methods_are_ignored_but_checked():
    assert parse("kd", {"at.weight": 5.0}) == parse("kd")
    fails(
        r"unknown setting of at 'wieght' \(did you mean weight\?\); allowed: ce, weight",
        "kd",
        {"at.wieght": 5.0},
    )


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            {"kd.temprature": 1.0},
            r"unknown setting of kd 'temprature' \(did you mean temperature\?\); allowed: ce, ",
        ),
        ({"kdd.temperature": 1.0}, r"unknown method 'kdd'"),
        ({"kd": 1.0}, r"unknown setting of kd ''"),
        ({"kd.temperature": "warm"}, r"kd.temperature='warm' is not a finite number"),
        ({"kd.temperature": "nan"}, r"kd.temperature='nan' is not a finite number"),
        ({"kd.temperature": float("inf")}, r"kd.temperature=inf is not a finite number"),
        ({"kd.temperature": 10**400}, r"kd.temperature=10+ is not a finite number"),
        ({"kd.temperature": True}, r"kd.temperature=True is not a finite number"),
        ({"kd.temperature": None}, r"kd.temperature=None is not a finite number"),
        ({"cc.dim": "1.5"}, r"cc.dim='1.5' is not a whole number"),
        ({"cc.dim": 1.5}, r"cc.dim=1.5 is not a whole number"),
        ({"cc.dim": True}, r"cc.dim=True is not a whole number"),
        ({"fitnet.layer": 9}, r"fitnet.layer=9 is not allowed; allowed: 0, 1, 2, 3, 4"),
        ({"ce": "much"}, r"ce='much' is not a finite number"),
    ],
)
def test_wrong_settings(overrides, match):
    fails(match, "kd", overrides)


def test_booleans_and_choices(toys):
    toys(toy="pass")
    config = parse("toy", {"toy.flag": "True", "toy.kind": "two", "toy.times": "7"}).components[0].config
    assert (config.flag, config.kind, config.times) == (True, "two", 7)
    fails(r"toy.flag='yes' is not true or false", "toy", {"toy.flag": "yes"})
    fails(r"toy.flag=1 is not true or false", "toy", {"toy.flag": 1})
    fails(r"toy.kind='three' is not allowed; allowed: one, two", "toy", {"toy.kind": "three"})
    fails(r"toy.kind=2 is not a word", "toy", {"toy.kind": 2})


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_as_a_string_is_the_same_number(value):
    assert check_override("kd.temperature", repr(value)) == check_override("kd.temperature", value) == value


@given(
    st.text(max_size=12), st.one_of(st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.none())
)
def test_any_input_is_accepted_or_gives_an_input_error(key, value):
    for k in (key, f"kd.{key}", f"{key}.weight", "kd.temperature", "cc.dim", "ce"):
        try:
            check_override(k, value)
        except InputError as error:
            assert re.search(r"; allowed: | is not (a |true or false)", str(error))


# --- weight of the cross-entropy --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "overrides", "ce"),
    [
        ("kd", {}, 0.1),
        ("at", {}, 1.0),
        ("at+kd", {}, 1.0),
        ("kd", {"ce": 0.5}, 0.5),
        ("kd", {"kd.ce": 0.5}, 0.5),
        ("kd", {"ce": 0.5, "kd.ce": 0.25}, 0.25),
        ("at+kd", {"ce": 0.5}, 0.5),
        ("at+kd", {"kd.ce": 0.5}, 0.5),
        ("at", {"kd.ce": 0.5}, 1.0),
        ("plain", {"ce": "0.5"}, 0.5),
        ("kd", {"ce": 0}, 0.0),
    ],
)
def test_ce(text, overrides, ce):
    assert parse(text, overrides).ce == ce
    assert parse(text, overrides).settings()["ce"] == ce


def test_two_weights_of_the_cross_entropy_do_not_depend_on_their_order():
    assert parse("at+kd", {"at.ce": 0.5, "kd.ce": 0.5}).ce == 0.5
    for keys in (("at.ce", "kd.ce"), ("kd.ce", "at.ce")):
        fails(
            r"'at\+kd': its methods are given different weights of the cross-entropy; set one ",
            "at+kd",
            dict(zip(keys, (0.5, 0.25), strict=True)),
        )


def test_combined_defaults_and_settings():
    assert parse("at+kd").components[-1].config.weight == 1.0
    assert parse("at+kd", {"kd.weight": 0.9}).components[-1].config.weight == 0.9


# --- combinations -----------------------------------------------------------------------------------------


def test_needs_are_the_union():
    needs = parse("at+rkd+kd").needs()
    assert needs.student == {"stages", "embedding", "logits"}
    assert needs.teacher == {"stages", "embedding", "logits"}
    assert [v.name for v in needs.views] == ["normal"] == [v.name for v in needs.passes]


def test_needs_of_turned_views():
    needs = parse("sskd+kd").needs()
    assert [v.name for v in needs.views] == ["normal", "rotated"]
    assert parse("sskd").requires == ("sskd_head",)


def test_one_component_that_skips_is_enough():
    student, teacher = tiny_info(stages=((2, 8, 8), (2, 3, 3))), tiny_info(stages=((2, 8, 8), (2, 4, 4)))
    assert "FitNet" in parse("fitnet+kd").skip(student, teacher)
    assert parse("at+kd").skip(student, teacher) is None


TASK = "def task_loss(self, step): return step.student.logits.sum()"


def test_two_that_replace_the_cross_entropy(toys):
    toys(one=TASK, two=TASK, three="pass")
    assert parse("one+three").name == "one+three"
    fails(
        r"'one\+two': more than one of these methods replaces the cross-entropy; keep one of them",
        "one+two",
    )


def test_two_samplers(toys):
    own = 'sampler = Sampler("{}", None)'
    toys(one=own.format("pairs"), two=own.format("halves"), three=own.format("pairs"), four="pass")
    assert parse("one+three").sampler.name == parse("four+one").sampler.name == "pairs"
    assert parse("four").sampler.name == "shuffle"
    fails(r"'one\+two': these methods need different samplers, so they cannot be combined", "one+two")


# --- discovery --------------------------------------------------------------------------------------------


def test_a_file_in_a_user_folder_is_a_method(toys):
    toys(mine="pass")
    assert "mine" in methods.names()
    assert parse("mine+kd", {"mine.times": 4}).components[0].config.times == 4


def test_underscored_files_are_not_methods(toys):
    folder = toys(mine="pass")
    (folder / "_parts.py").write_text("raise RuntimeError")
    methods.clear_cache()
    assert "mine" in methods.names()
    assert not any(name.startswith("_") for name in methods.names())


def test_two_methods_of_one_name(toys):
    toys(kd="pass")
    with pytest.raises(
        InputError, match=r"two methods are called 'kd': .*kd\.py and .*kd\.py; rename one of them"
    ):
        methods.names()


def test_a_file_that_cannot_be_imported(toys):
    (toys(mine="pass") / "broken.py").write_text("import nothing_of_this_name")
    methods.clear_cache()
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"KD_METHODS: .*broken.py cannot be imported: ModuleNotFoundError"
        ):
            methods.names()


def broken(toys, capsys, code, *argvs):
    """Return the error line of the commands if `toy.py` has this code."""
    folder = toys(toy="pass")
    (folder / "toy.py").write_text(code)
    for argv in argvs:
        methods.clear_cache()
        assert main(list(argv)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and str(folder / "toy.py") in line, line
    return line


@pytest.mark.parametrize(
    "name", ["MSE", "Toy", "m+s", "a/b", "../../x", "a.b", "a b", "3kd", "_a", "é", "a\n"]
)
def test_invalid_names(toys, capsys, name):
    line = broken(
        toys,
        capsys,
        TOY.format(cls="Toy", name=name.replace("\n", "\\n"), body="pass"),
        ["methods"],
        ["plan", "crd-table1"],
    )
    assert f"name of class Toy is {name!r}; it must start with a lower-case letter and hold only " in line


@pytest.mark.parametrize("name", [*methods.RESERVED, "train", "items", "float"])
def test_reserved_names(toys, capsys, name):
    assert f"name of class Toy is '{name}'; this name is reserved, as are plain, " in broken(
        toys, capsys, TOY.format(cls="Toy", name=name, body="pass"), ["methods"]
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("Config = 3", "Config of class Toy is 3; it must be a subclass of MethodConfig"),
        (
            "class Config(MethodConfig):\n        weight: float = param(1.0, '', '')",
            "; it must be a subclass of MethodConfig with the decorator @dataclass(",
        ),
        ("revision = 'two'", "revision of class Toy is 'two'; it must be of type int"),
        ("combined_defaults = 3", "combined_defaults of class Toy is 3; it must be of type Mapping"),
        ("formula = None", "formula of class Toy is None; it must be of type str"),
        (
            "pair_constants = ({},)",
            "pair_constants of class Toy is ({},); it must be a tuple of PairConstants",
        ),
    ],
)
def test_class_attributes_are_checked_when_found(toys, capsys, body, message):
    assert message in broken(
        toys, capsys, TOY.format(cls="Toy", name="toy", body=body), ["methods"], ["plan", "crd-table1"]
    )


def test_a_config_that_cannot_be_built(toys, capsys):
    code = TOY.format(cls="Toy", name="toy", body="pass").replace("times: int = param(3,", "times: int  #")
    assert "Config of method 'toy' raised TypeError: " in broken(toys, capsys, code, ["methods"])


CLASS_METHOD = "@classmethod\n    def {}: {}"


@pytest.mark.parametrize(
    ("function", "body", "message", "shown"),
    [
        (
            "needs(cls, config)",
            "return Needs.of('logit', 'logits')",
            "raised ValueError: unknown parts ['logit']; allowed: stem, ",
            True,
        ),
        (
            "needs(cls, config)",
            "return Needs.of('logits', 'logits', views=('normal',))",
            "raised ValueError: views must be `View`s of benchmark/data/views.py, not ['normal']",
            True,
        ),
        (
            "needs(cls, config)",
            "return 'logits'",
            "returned 'logits'; it must return a value of type Needs",
            True,
        ),
        (
            "requires(cls, config)",
            "return 'sskd_head'",
            "returned 'sskd_head'; it must return a value of type tuple or list",
            True,
        ),
        ("skip(cls, config, student, teacher)", "return student.nothing", "raised AttributeError: ", False),
        (
            "skip(cls, config, student, teacher)",
            "return True",
            "returned True; it must return a value of type str or None",
            False,
        ),
        ("pair_defaults(cls, teacher, student)", "return {}[teacher]", "raised KeyError: ", False),
        ("schedule(cls)", "return 3", "returned 3; it must return a value of type Mapping", False),
        (
            "buffer_elements(cls, config, n, classes, teacher)",
            "return n / 0",
            "raised ZeroDivisionError: ",
            False,
        ),
    ],
)
def test_an_error_in_a_class_method_is_one_line(
    toys, tmp_path_factory, capsys, function, body, message, shown
):
    table = tmp_path_factory.mktemp("table") / "own.toml"
    table.write_text(
        'title = "One row"\npaper = "own"\ntable = "t"\ndataset = "digits"\nprotocol = "crd"\nseeds = 1\n'
        'columns = ["resnet14:resnet8"]\n[[rows]]\nlabel = "Toy"\nmethod = "toy"\n'
    )
    verbs = [["methods"], ["methods", "toy"]] if shown else []
    line = broken(
        toys,
        capsys,
        TOY.format(cls="Toy", name="toy", body=CLASS_METHOD.format(function, body)),
        *verbs,
        ["plan", str(table)],
    )
    assert f"{function.partition('(')[0]} of method 'toy' {message}" in line


def test_source_is_a_hash_of_the_file(toys):
    folder = toys(toy="pass")
    before = methods.get("toy").source
    assert len(before) == 10 and before != methods.get("kd").source
    methods.clear_cache()
    assert methods.get("toy").source == before
    (folder / "toy.py").write_text((folder / "toy.py").read_text() + "# edited\n")
    methods.clear_cache()
    assert methods.get("toy").source != before


def test_a_missing_folder(toys, monkeypatch):
    monkeypatch.setenv("KD_METHODS", str(toys(mine="pass") / "gone"))
    methods.clear_cache()
    with pytest.raises(InputError, match=r"KD_METHODS: there is no folder .*gone; list folders that"):
        methods.names()


# --- objective --------------------------------------------------------------------------------------------


def test_a_replaced_cross_entropy_is_used_and_weighted(toys):
    toys(mine=TASK)
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    total, terms = Objective(parse("mine", {"ce": 0.5}), CONTEXT, lambda _: 0)({"mine": step})
    torch.testing.assert_close(total, 0.5 * step.student.logits.sum())
    assert set(terms) == {"ce"}


def test_cross_entropy_of_weight_zero_is_not_computed():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    _, terms = Objective(parse("at", {"ce": 0}), CONTEXT, lambda _: 0)({"at": step})
    assert set(terms) == {"at"}


def test_all_weights_zero():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    objective = Objective(parse("at", {"ce": 0, "at.weight": 0}), CONTEXT, lambda _: 0)
    with pytest.raises(
        InputError, match=r"'at': every term of the loss has weight 0; give at least one term another weight"
    ):
        objective({"at": step})


@pytest.mark.parametrize(
    ("term", "more", "message"),
    [
        (
            "mse",
            "",
            r"method 'toy': weights\(\) has no weight for the term 'mse' of its loss; allowed: toy",
        ),
        (
            "toy",
            "weights = classmethod(lambda cls, config: {})",
            r"no weight for the term 'toy' of its loss; allowed: none",
        ),
        (
            "toy",
            "weights = classmethod(lambda cls, config: {'toy_a': 1.0, 'toy_b': 2.0})",
            r"the term 'toy' of its loss; allowed: toy_a, toy_b",
        ),
    ],
)
def test_a_term_without_a_weight(toys, term, more, message):
    toys(toy=f"def loss(self, step): return {{'{term}': step.student.logits.sum()}}\n    {more}")
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    objective = Objective(parse("toy"), CONTEXT, lambda _: 0)
    with pytest.raises(InputError, match=message):
        objective({"toy": step})
    with pytest.raises(InputError, match=message):
        objective.method("toy").is_active(term)


def test_a_setting_cannot_make_a_weight_negative(toys):
    toys(own="weights = classmethod(lambda cls, config: {'own': -config.weight})")
    methods.check_loss(parse("own"), "", "")
    methods.check_loss(parse("own", {"own.weight": 3}), "", "")
    with pytest.raises(InputError, match=r"'own': the term ce has weight -1\.0; allowed: 0 and more"):
        methods.check_loss(parse("own", {"ce": -1}), "", "")


def test_weights_must_be_a_class_method(toys):
    with pytest.raises(InputError, match=r"old\.py: weights of class Old is .*; it must be a class method"):
        toys(old="def weights(self): return {'old': 1.0}")
        methods.names()


def test_each_method_is_built_under_its_own_seed():
    """So a method starts alike alone and in a combination. Building does not use the global generator."""
    seeds = {"cc": 1, "vid": 2, "kd": 3}
    before = torch.get_rng_state()
    alone, together = (Objective(parse(text), CONTEXT, seeds.__getitem__) for text in ("cc", "cc+vid+kd"))
    assert torch.equal(before, torch.get_rng_state())
    for key, value in alone.state_dict().items():
        assert torch.equal(value, together.state_dict()[key])
    other = Objective(parse("cc"), CONTEXT, lambda _: 5)
    assert not torch.equal(other.method("cc").embed_s.weight, alone.method("cc").embed_s.weight)


def test_an_edit_without_a_new_revision_is_reported(toys, tmp_path, capsys):
    folder = toys(
        mine="""def loss(self, step):
        return {"mine": step.student.logits.square().mean()}"""
    )
    table = tmp_path / "t.toml"
    table.write_text(
        'title = "T"\npaper = "p"\ntable = "t"\ndataset = "digits"\nprotocol = "crd"\nseeds = 1\n'
        'columns = ["none:resnet8"]\n[[rows]]\nlabel = "M"\nmethod = "mine"\n'
    )
    few = ["--set", "recipe.train_images=64", "--set", "recipe.test_images=50", "--set", "recipe.epochs=1"]
    run = [
        "run",
        str(table),
        "--profile",
        "quick",
        "--results",
        str(tmp_path / "runs"),
        "--threads",
        "1",
        *few,
    ]
    assert main(run) == 0
    capsys.readouterr()
    assert main(run) == 0 and "has changed" not in capsys.readouterr().err
    file = folder / "mine.py"
    file.write_text(file.read_text().replace("square", "abs"))
    methods.clear_cache()
    assert main(run) == 0
    message = capsys.readouterr().err
    assert (
        "the file of method mine has changed since 1 finished run; "
        "if its loss has changed, raise its `revision`" in message
    )
    assert "nothing to train" in message
    record = json.loads(next((tmp_path / "runs").rglob("record.json")).read_text())
    assert list(record["sources"]) == ["mine"] and len(record["sources"]["mine"]) == 10
