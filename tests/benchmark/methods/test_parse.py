"""Discovery, combination and settings of methods: what a user may write, and the one line that answers anything else."""

import json

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
    """`toys(file=body)`: writes method files of these class bodies and has them found; the method is called like the file."""

    def write(**bodies):
        for name, body in bodies.items():
            (tmp_path / f"{name}.py").write_text(TOY.format(cls=name.title(), name=name, body=body))
        monkeypatch.setenv("KD_METHODS", str(tmp_path))
        methods._registry.cache_clear()
        return tmp_path

    yield write
    monkeypatch.undo()
    methods._registry.cache_clear()


def fails(match, text, overrides=None):
    with pytest.raises(InputError, match=match) as caught:
        parse(text, overrides)
    assert "\n" not in str(caught.value)


# --- names -------------------------------------------------------------------------------------------------------------------


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
        ("at+at", r"'at\+at' names a method twice; allowed: each once"),
        ("plain+kd", r"'plain\+kd'.*plain.*; allowed: "),
        (
            "sskd_head+kd",
            r"'sskd_head\+kd': a method that trains no student cannot be combined; allowed: it alone",
        ),
    ],
)
def test_wrong_names(text, match):
    fails(match, text)


# --- settings ------------------------------------------------------------------------------------------------------------------


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
        ({"kd.temperature": "warm"}, r"kd.temperature='warm' is not of type float; allowed: a finite float"),
        ({"kd.temperature": "nan"}, r"kd.temperature='nan' .* allowed: a finite float"),
        ({"kd.temperature": float("inf")}, r"kd.temperature=inf.* allowed: a finite float"),
        ({"kd.temperature": 10**400}, r"kd.temperature=10+ is not of type float"),
        ({"kd.temperature": True}, r"kd.temperature=True is not of type float"),
        ({"kd.temperature": None}, r"kd.temperature=None is not of type float"),
        ({"cc.dim": "1.5"}, r"cc.dim='1.5' is not of type int; allowed: an int"),
        ({"cc.dim": 1.5}, r"cc.dim=1.5 is not of type int"),
        ({"cc.dim": True}, r"cc.dim=True is not of type int"),
        ({"fitnet.layer": 9}, r"fitnet.layer=9 is not allowed; allowed: 0, 1, 2, 3, 4"),
        ({"ce": "much"}, r"ce='much' is not of type float; allowed: a finite float"),
    ],
)
def test_wrong_settings(overrides, match):
    fails(match, "kd", overrides)


def test_switches_and_words(toys):
    toys(toy="pass")
    config = parse("toy", {"toy.flag": "True", "toy.kind": "two", "toy.times": "7"}).components[0].config
    assert (config.flag, config.kind, config.times) == (True, "two", 7)
    fails(r"toy.flag='yes' is not of type bool", "toy", {"toy.flag": "yes"})
    fails(r"toy.flag=1 is not of type bool", "toy", {"toy.flag": 1})
    fails(r"toy.kind='three' is not allowed; allowed: one, two", "toy", {"toy.kind": "three"})
    fails(r"toy.kind=2 is not of type str", "toy", {"toy.kind": 2})


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_as_a_word_is_the_same_number(value):
    assert check_override("kd.temperature", repr(value)) == check_override("kd.temperature", value) == value


@given(
    st.text(max_size=12), st.one_of(st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.none())
)
def test_any_input_is_taken_or_answered_in_one_line(key, value):
    for k in (key, f"kd.{key}", f"{key}.weight", "kd.temperature", "cc.dim", "ce"):
        try:
            check_override(k, value)
        except InputError as error:
            assert "allowed: " in str(error)


# --- weight of the cross-entropy -----------------------------------------------------------------------------------------------


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
        fails(r"'at\+kd'.*cross-entropy.*; allowed: ", "at+kd", dict(zip(keys, (0.5, 0.25), strict=True)))


def test_combined_defaults_and_settings():
    assert parse("at+kd").components[-1].config.weight == 1.0
    assert parse("at+kd", {"kd.weight": 0.9}).components[-1].config.weight == 0.9


# --- combinations ------------------------------------------------------------------------------------------------------------


def test_needs_are_the_union():
    needs = parse("at+rkd+kd").needs()
    assert needs.student == {"stages", "embedding", "logits"}
    assert needs.teacher == {"stages", "embedding", "logits"}
    assert [v.name for v in needs.views] == ["normal"] == [v.name for v in needs.passes]


def test_needs_of_turned_views():
    needs = parse("sskd+kd").needs()
    assert [v.name for v in needs.views] == ["normal", "rotated"]
    assert parse("sskd").requires == ("sskd_head",)


def test_one_component_that_cannot_is_enough():
    student, teacher = tiny_info(stages=((2, 8, 8), (2, 3, 3))), tiny_info(stages=((2, 8, 8), (2, 4, 4)))
    assert "FitNet" in parse("fitnet+kd").skip(student, teacher)
    assert parse("at+kd").skip(student, teacher) is None


TASK = "def task_loss(self, step): return step.student.logits.sum()"


def test_two_that_replace_the_cross_entropy(toys):
    toys(one=TASK, two=TASK, three="pass")
    assert parse("one+three").name == "one+three"
    fails(
        r"'one\+two': more than one of these methods replaces the cross-entropy; allowed: one that does",
        "one+two",
    )


def test_two_samplers(toys):
    own = 'sampler = Sampler("{}", None)'
    toys(one=own.format("pairs"), two=own.format("halves"), three=own.format("pairs"), four="pass")
    assert parse("one+three").sampler.name == parse("four+one").sampler.name == "pairs"
    assert parse("four").sampler.name == "shuffle"
    fails(r"'one\+two': these methods need different samplers; allowed: one", "one+two")


# --- discovery ---------------------------------------------------------------------------------------------------------------


def test_a_file_in_a_folder_of_ones_own_is_a_method(toys):
    toys(mine="pass")
    assert "mine" in methods.names()
    assert parse("mine+kd", {"mine.times": 4}).components[0].config.times == 4


def test_underscored_files_are_not_methods(toys):
    folder = toys(mine="pass")
    (folder / "_parts.py").write_text("raise RuntimeError")
    methods._registry.cache_clear()
    assert "mine" in methods.names()
    assert not any(name.startswith("_") for name in methods.names())


def test_a_name_twice(toys):
    toys(kd="pass")
    with pytest.raises(InputError, match="two methods are called 'kd'; allowed: one file for each name"):
        methods.names()


def test_a_file_that_cannot_be_imported(toys):
    (toys(mine="pass") / "broken.py").write_text("import nothing_of_this_name")
    methods._registry.cache_clear()
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"KD_METHODS: .*broken.py cannot be imported: ModuleNotFoundError"
        ):
            methods.names()


def broken(toys, capsys, code, *argvs):
    """The error line that each command ends with, where `toy.py` is this file."""
    folder = toys(toy="pass")
    (folder / "toy.py").write_text(code)
    for argv in argvs:
        methods._registry.cache_clear()
        assert main(list(argv)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and str(folder / "toy.py") in line, line
    return line


@pytest.mark.parametrize(
    "name", ["MSE", "Toy", "m+s", "a/b", "../../x", "a.b", "a b", "3kd", "_a", "é", "a\n"]
)
def test_names_that_cannot_be_written(toys, capsys, name):
    line = broken(
        toys,
        capsys,
        TOY.format(cls="Toy", name=name.replace("\n", "\\n"), body="pass"),
        ["methods"],
        ["plan", "crd-table1"],
    )
    assert f"name of class Toy is {name!r}; allowed: a lower-case letter" in line


@pytest.mark.parametrize("name", [*methods.TAKEN, "train", "items", "float"])
def test_names_that_mean_something_else(toys, capsys, name):
    assert f"name of class Toy is '{name}'; allowed: a name that is not taken" in broken(
        toys, capsys, TOY.format(cls="Toy", name=name, body="pass"), ["methods"]
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("Config = 3", "Config of class Toy is 3; allowed: a subclass of MethodConfig"),
        (
            "class Config(MethodConfig):\n        weight: float = param(1.0, '', '')",
            "allowed: a subclass of MethodConfig under @dataclass",
        ),
        ("revision = 'two'", "revision of class Toy is 'two'; allowed: int"),
        ("combined = 3", "combined of class Toy is 3; allowed: Mapping"),
        ("formula = None", "formula of class Toy is None; allowed: str"),
    ],
)
def test_what_a_class_states_is_looked_at_when_it_is_found(toys, capsys, body, said):
    assert said in broken(
        toys, capsys, TOY.format(cls="Toy", name="toy", body=body), ["methods"], ["plan", "crd-table1"]
    )


def test_a_config_that_cannot_be_made(toys, capsys):
    code = TOY.format(cls="Toy", name="toy", body="pass").replace("times: int = param(3,", "times: int  #")
    assert "Config of method 'toy' ends in TypeError: " in broken(toys, capsys, code, ["methods"])


ASKED = "@classmethod\n    def {}: {}"


@pytest.mark.parametrize(
    ("question", "answer", "said", "shown"),
    [
        (
            "needs(cls, config)",
            "return Needs.of('logit', 'logits')",
            "ends in ValueError: unknown parts ['logit']; allowed: stem, ",
            True,
        ),
        (
            "needs(cls, config)",
            "return Needs.of('logits', 'logits', views=('normal',))",
            "ends in ValueError: ['normal'] are no views",
            True,
        ),
        ("needs(cls, config)", "return 'logits'", "answers 'logits'; allowed: Needs", True),
        ("requires(cls, config)", "return 'sskd_head'", "answers 'sskd_head'; allowed: tuple or list", True),
        ("skip(cls, config, student, teacher)", "return student.nothing", "ends in AttributeError: ", False),
        (
            "skip(cls, config, student, teacher)",
            "return True",
            "answers True; allowed: str or NoneType",
            False,
        ),
        ("for_pair(cls, teacher, student)", "return {}[teacher]", "ends in KeyError: ", False),
        ("schedule(cls)", "return 3", "answers 3; allowed: Mapping", False),
        ("memory(cls, config, n, classes, teacher)", "return n / 0", "ends in ZeroDivisionError: ", False),
    ],
)
def test_what_a_method_answers_wrongly_is_one_line(
    toys, tmp_path_factory, capsys, question, answer, said, shown
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
        TOY.format(cls="Toy", name="toy", body=ASKED.format(question, answer)),
        *verbs,
        ["plan", str(table)],
    )
    assert f"{question.partition('(')[0]} of method 'toy' {said}" in line


def test_source_is_a_hash_of_the_file(toys):
    folder = toys(toy="pass")
    before = methods.get("toy").source
    assert len(before) == 10 and before != methods.get("kd").source
    methods._registry.cache_clear()
    assert methods.get("toy").source == before
    (folder / "toy.py").write_text((folder / "toy.py").read_text() + "# edited\n")
    methods._registry.cache_clear()
    assert methods.get("toy").source != before


def test_a_folder_that_is_not_there(toys, monkeypatch):
    monkeypatch.setenv("KD_METHODS", str(toys(mine="pass") / "gone"))
    methods._registry.cache_clear()
    with pytest.raises(InputError, match=r"KD_METHODS: no folder .*gone; allowed: folders"):
        methods.names()


# --- objective ---------------------------------------------------------------------------------------------------------------


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


def test_nothing_to_minimise():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    objective = Objective(parse("at", {"ce": 0, "at.weight": 0}), CONTEXT, lambda _: 0)
    with pytest.raises(InputError, match=r"'at': every term has weight 0; allowed: at least one that is not"):
        objective({"at": step})


@pytest.mark.parametrize(
    ("term", "more", "said"),
    [
        (
            "mse",
            "",
            r"method 'toy': weights\(\) has no weight for the term 'mse' of its loss; allowed: toy \(a term is called as its method, ",
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
def test_a_term_without_a_weight(toys, term, more, said):
    toys(toy=f"def loss(self, step): return {{'{term}': step.student.logits.sum()}}\n    {more}")
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    objective = Objective(parse("toy"), CONTEXT, lambda _: 0)
    with pytest.raises(InputError, match=said):
        objective({"toy": step})
    with pytest.raises(InputError, match=said):
        objective.method("toy").active(term)


def test_a_negative_weight_is_refused_where_a_setting_makes_it(toys):
    toys(own="weights = classmethod(lambda cls, config: {'own': -config.weight})")
    methods.check_loss(parse("own"), "", "")
    methods.check_loss(parse("own", {"own.weight": 3}), "", "")
    with pytest.raises(InputError, match=r"'own': the term ce has weight -1\.0; allowed: 0 and more"):
        methods.check_loss(parse("own", {"ce": -1}), "", "")


def test_weights_that_are_no_class_method_are_refused(toys):
    with pytest.raises(InputError, match=r"old\.py: weights of class Old is .*; allowed: a class method"):
        toys(old="def weights(self): return {'old': 1.0}")
        methods.names()


def test_each_method_is_built_under_its_own_seed():
    """So a method starts alike alone and in a combination, and building leaves the global generator alone."""
    seeds = {"cc": 1, "vid": 2, "kd": 3}
    before = torch.get_rng_state()
    alone, together = (Objective(parse(text), CONTEXT, seeds.__getitem__) for text in ("cc", "cc+vid+kd"))
    assert torch.equal(before, torch.get_rng_state())
    for key, value in alone.state_dict().items():
        assert torch.equal(value, together.state_dict()[key])
    other = Objective(parse("cc"), CONTEXT, lambda _: 5)
    assert not torch.equal(other.method("cc").embed_s.weight, alone.method("cc").embed_s.weight)


def test_an_edit_without_a_new_revision_is_named(toys, tmp_path, capsys):
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
    methods._registry.cache_clear()
    assert main(run) == 0
    said = capsys.readouterr().err
    assert (
        "the file of method mine has changed since 1 finished run; if its loss has changed, raise its `revision`"
        in said
    )
    assert "nothing to train" in said
    record = json.loads(next((tmp_path / "runs").rglob("record.json")).read_text())
    assert list(record["sources"]) == ["mine"] and len(record["sources"]["mine"]) == 10
