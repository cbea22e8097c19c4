"""Wrong input is refused before anything is trained or measured: one line, exit code 2."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import FAST, SMALL, TABLE, Trained, refused

import results
from benchmark import methods, plugins, user_files
from benchmark.__main__ import main, parser
from benchmark.cli import bench_options, common, report
from benchmark.cli.selection import seeds_of
from benchmark.errors import InputError
from benchmark.spec import matrix, plan, profiles, protocols, recipes, teacher_table
from benchmark.training.execution import ExecutionRequest
from benchmark.work import local, order
from results.published import PublishedError, reader

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.usefixtures("untrained")


@pytest.mark.parametrize(
    "argv",
    [
        *(["table", "crd-table1", option, ""] for option in ("--out", "--results", "--data", "--profile")),
        *(["report", "--out", ""], ["diff", "crd-table1", "--fail-on", " "]),
        *(["export", "kd", "--to", "csv", "--out", ""], ["contribute", "kd", "--out", ""]),
        *(["reproduce", "crd-table1", "--out", ""], ["judge", "a:b", "kd", "7", "--results", ""]),
        *(["published", option, ""] for option in ("--pair", "--method", "--dataset", "--metric")),
        *(
            ["plan", "crd-table1", o, ""]
            for o in ("--protocol", "--teachers", "--network", "--keep", "--device")
        ),
        *(["methods", ""], ["reproduce", ""], ["bench", "gpu", " "], ["bench", "cells", "--json", ""]),
        *(["evaluate", "kd", "--dataset", ""], ["judge", "a:b", "kd", "7", "--protocol", ""]),
    ],
    ids=" ".join,
)
def test_an_empty_value_is_not_the_working_folder_or_the_default(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the value is empty; give one" in refused(argv, capsys)


@pytest.mark.parametrize("option", ["--data", "--teachers", "--results"])
def test_links_that_lead_in_a_circle_are_one_line(
    option: str, tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    line = refused(["plan", table, *FAST, option, str(tmp_path / "loop" / "x")], capsys)
    assert str(tmp_path / "loop") in line


@pytest.mark.parametrize(("verb", "continues"), [("run", True), ("plan", False)])
def test_only_a_training_goes_on_after_an_interruption(
    verb: str,
    continues: bool,
    table: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "make_plan", interrupt)
    assert main([verb, table, *FAST]) == 130
    assert ("the same command continues" in capsys.readouterr().err) == continues


def test_a_table_that_cannot_be_read_is_one_line(
    table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sealed(path: Path, *_: object, **__: object) -> str:  # root may read every file
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", sealed)
    assert refused(["plan", table], capsys) == f"error: {table} cannot be read (Permission denied)"


def test_an_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """It may quote the file of a stranger."""
    assert refused(["plan", "a\x1b[31m\u202eb\nc"], capsys).startswith("error: unknown table 'a?[31m?b c'")


def test_a_file_in_the_place_of_the_folder_is_refused_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused(["bench", "gpu", str(tmp_path / "file")], capsys)


@pytest.mark.parametrize("value", ["[" * 5000, "9" * 5000, "1979-99-99"])
def test_a_damaged_table_file_is_one_line(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"seeds = {value}")
    assert "x.toml is not valid TOML" in refused(["plan", str(path)], capsys)
    with pytest.raises(InputError, match="not valid TOML"):
        user_files.read_toml(path)


def test_closed_output_is_no_traceback(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["plan", table, *SMALL]) == 0
    assert main(["plan", "nope"]) == 2


def test_a_folder_whose_name_cannot_be_decoded_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["status", "crd-table1", "--results", "/tmp/\udcc3\udca9"], capsys)
    assert "not text in the encoding of this terminal; rename the folder, or set PYTHONUTF8=1" in message


@pytest.mark.parametrize("out", ["/etc/passwd", "/proc/x"])
def test_the_output_folder_is_checked_before_training(
    out: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--out" in refused(["reproduce", table, *FAST, "--out", out], capsys)


def test_a_results_folder_that_cannot_be_written_is_one_line(
    table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "RESULTS" in refused(["run", table, *FAST, "--results", "/proc/x"], capsys)


@pytest.mark.parametrize("verb", ["table", "report"])
def test_the_error_names_the_option_of_a_folder_that_cannot_be_made(
    verb: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    assert "--out: /proc/x cannot be written to" in refused([verb, table, *SMALL, "--out", "/proc/x"], capsys)


@pytest.mark.parametrize("verb", ["plan", "status", "diff"])
def test_verbs_that_only_read_make_no_folder(verb: str, table: str, tmp_path: Path) -> None:
    main([verb, table, *SMALL])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini.toml"]


def test_a_file_error_is_one_line(
    table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device", "/somewhere/record.json")

    monkeypatch.setattr(local, "run_plan", full)
    assert refused(["run", table, *FAST], capsys) == "error: /somewhere/record.json: No space left on device"


def test_an_error_without_a_file_and_a_reason_keeps_its_traceback(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bare(*_: Any, **__: Any) -> Any:
        raise OSError("what is this")

    monkeypatch.setattr(local, "run_plan", bare)
    with pytest.raises(OSError, match="what is this"):
        main(["run", table, *FAST])


def test_output_that_is_not_utf8_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESULTS", str(tmp_path))
    argv = ["diff", "sskd-table3", "--profile", "paper", "--pairs", "resnet56:resnet20", "--methods", "kd"]
    printed = io.BytesIO()
    out = io.TextIOWrapper(printed, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(argv) in (0, 1)
    out.flush()
    text = printed.getvalue().decode("ascii")
    assert "resnet20" in text and "?" in text


@pytest.mark.parametrize(
    "argv",
    [
        ["bench", "parts", "--json"],
        ["bench", "drift", "--save"],
        ["bench", "students", "--plot"],
        ["bench", "--json"],
    ],
    ids=" ".join,
)
def test_output_files_of_bench_are_checked_before_measuring(argv: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "folder.png"
    folder.mkdir()
    for path, message in (
        (folder, r"folder\.png is not a file"),
        (tmp_path / "none" / "x.png", "no such folder"),
    ):
        with pytest.raises(InputError, match=message):
            bench_options.check(parser().parse_args([*argv, str(path)]))
    file = tmp_path / "x.png"
    bench_options.check(parser().parse_args([*argv, str(file)]))
    assert not file.exists()


def test_bench_does_not_replace_a_device_by_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--json /dev/null" in refused(["bench", "--images", "200", "--json", "/dev/null"], capsys)


TOO_MANY = ",".join(map(str, range(1001)))


@pytest.mark.parametrize(
    "text", ["99999999999999999999", "300000", "1001", "5,99999999999999999999999", f"0,{2**31}", TOO_MANY]
)
def test_seeds_are_bounded(text: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["plan", table, *FAST, "--seeds", text], capsys)
    assert "1000" in line and str(2**31 - 1) in line and len(line) < 300


def test_the_most_and_the_largest_seeds_are_allowed() -> None:
    assert seeds_of("1000") == list(range(1000))
    assert seeds_of(f"5,{2**31 - 1}") == [5, 2**31 - 1]


def test_bench_seeds_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--seeds" in refused(["bench", "finals", "--seeds", "99999999999999999999"], capsys)


def test_one_training_image_makes_no_batch(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "recipe.train_images=1; allowed: 2 to 1000000" in refused(
        ["run", table, *FAST, "--set", "recipe.train_images=1"], capsys
    )


def test_a_data_set_of_one_image_makes_no_batch() -> None:
    protocol, profile = protocols.get_protocol("crd"), profiles.get_profile("paper")
    with pytest.raises(InputError, match="training needs at least 2 images"):
        recipes.resolve(protocol, profile, network="resnet8", available=(1, 10))
    assert recipes.resolve(protocol, profile, network="resnet8", available=(2, 10)).train_images == 2


def an_order(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "mini.toml"
    path.write_text(TABLE)
    runs = matrix.expand(matrix.load_table(str(path)), "quick").runs
    made: dict[str, Any] = json.loads(
        order.work_order(
            runs,
            order.WorkSettings(
                results=tmp_path / "runs",
                data=Path("data"),
                execution=ExecutionRequest(device="cpu"),
            ),
        )
    )
    return made


def test_a_damaged_work_order_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = an_order(tmp_path)
    assert refused(["work", str(tmp_path)], capsys).count("directory") == 1
    assert "cannot be read" in refused(["work", str(tmp_path / "nothing")], capsys)
    file = tmp_path / "order.json"
    contents = [
        b"", b"no JSON", b"{}", b"[]", b"3", b"null", b"\xff\xfe\x00", b'{"runs": [], "settings": {}}',
        b"[" * 100_000,
        *(
            json.dumps(x).encode()
            for x in (
                {**good, "runs": []}, {**good, "runs": [3]},
                {**good, "runs": [{**good["runs"][0], "seed": "0"}]},
                {**good, "runs": [{**good["runs"][0], "overrides": [1]}]},
                {**good, "settings": {**good["settings"], "keep": 1}},
                {**good, "settings": {**good["settings"], "strange": 1}},
                {**good, "settings": {**good["settings"], "execution": {"threads": "1"}}},
                {**good, "settings": {"results": "x"}},
            )
        ),
    ]  # fmt: skip
    for content in contents:
        file.write_bytes(content)
        line = refused(["work", str(file)], capsys)
        assert "work order" in line, content
        assert content == b"\xff\xfe\x00" or "pass one that `run` or `submit` wrote" in line, content


def test_a_work_order_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(an_order(tmp_path))))
    with pytest.raises(Trained):
        main(["work", "-"])


@pytest.mark.parametrize("until", ["0", "-1"])
def test_until_must_be_an_epoch(until: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--until" in refused(["run", table, *FAST, f"--until={until}"], capsys)


@pytest.mark.parametrize("option", ["--pairs", "--methods", "--only"])
@pytest.mark.parametrize("empty", ["", ",", " , "])
def test_an_empty_selection_does_not_select_everything(
    option: str, empty: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert option in refused(["plan", table, *FAST, option, empty], capsys)


@pytest.mark.parametrize("verb", ["table", "diff", "report"])
def test_verbs_that_show_cells_cannot_select_single_runs(
    verb: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--only` would be ignored there: a cell is the mean of all its runs."""
    assert "--only" in refused([verb, table, "--only", "seed0"], capsys)


def test_a_folder_of_teachers_without_a_checkpoint(
    tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise all teachers would be trained, although the user gave a folder of checkpoints."""
    assert "no checkpoint in" in refused(["plan", table, *FAST, "--teachers", str(tmp_path)], capsys)


def test_cancel_checks_the_table_before_it_asks_slurm(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown table 'nope'" in refused(["cancel", "nope"], capsys)


@pytest.mark.parametrize("argv", [["cells", "--pairs", ","], ["finals", "--methods", ""]], ids=" ".join)
def test_an_empty_selection_of_bench_does_not_select_everything(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert argv[-2] in refused(["bench", *argv], capsys)


def reported(argv: list[str]) -> dict[str, set[str]]:
    """Return the tables that a report would show, with their pairs, if every run had a record."""
    args = parser().parse_args(["report", "--profile", "quick", *argv])
    keys = {r.key for s in report.select_all(report.narrow_by_table(args))[0] for r in s.runs}
    return {
        s.expansion.table.name: {c.pair for c in s.expansion.cells}
        for s in report.choose_tables(args, keys)[0]
    }


def test_a_report_leaves_out_tables_that_lack_the_pair_or_method() -> None:
    found = reported(["--pairs", "resnet56:resnet20,resnet32x4:ShuffleV2"])
    assert found["crd-table1"] == {"resnet56:resnet20"} and found["crd-table2"] == {"resnet32x4:ShuffleV2"}
    assert "crd-table1" in reported(["--methods", "fsp"]) and "sskd-table3" not in reported(
        ["--methods", "fsp"]
    )
    assert reported(["--set", "fsp.init_weight=2"]).keys() <= set(matrix.table_names())


def test_a_report_of_what_no_table_has_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    out = str(tmp_path / "out")
    unknown = "resnet8:resnet110"
    for argv in (["--pairs", unknown], ["--methods", "nope"], ["--pairs", f"resnet56:resnet20,{unknown}"]):
        refused(["report", "--profile", "quick", "--out", out, *argv], capsys)
        assert not Path(out).exists()


# --- folders --------------------------------------------------------------------------------------------


READING = ["table", "diff", "report", "retry", "cancel", "clean", "logs"]


@pytest.mark.parametrize("verb", READING)
def test_verbs_that_read_refuse_a_missing_results_folder(
    verb: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = [verb, *{"clean": [], "logs": ["some-run"]}.get(verb, [table, *SMALL])]
    assert f"no folder {tmp_path / 'runs'}; give a folder of runs" in refused(argv, capsys)
    assert f"no folder {tmp_path / 'typo'}; give a folder of runs" in refused(
        [*argv, "--results", str(tmp_path / "typo")], capsys
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini.toml"], "no file is written of nothing"


@pytest.mark.parametrize("verb", ["status", "plan"])
def test_plan_and_status_accept_a_missing_results_folder(
    verb: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, table, *SMALL]) == 0
    assert capsys.readouterr().err == f"RESULTS: no folder {tmp_path / 'runs'} yet, so no run is done\n"


@pytest.mark.parametrize("verb", [*READING, "status", "plan"])
def test_the_default_results_folder_may_be_missing(
    verb: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESULTS")
    monkeypatch.setattr(common, "default_folder", lambda: tmp_path / "usual")
    monkeypatch.chdir(tmp_path)
    main([verb, *{"clean": [], "logs": ["some-run"]}.get(verb, [table, *SMALL])])
    assert "no folder" not in capsys.readouterr().err


def test_a_tilde_is_expanded_without_a_shell(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `make RESULTS='~/x'`, and in dash, which does not expand `RESULTS=~/x` in front of a command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESULTS", "~/kdx")
    assert (
        results.default_folder()
        == common.store_of(argparse.Namespace(results=None)).folder
        == tmp_path / "home" / "kdx"
    )
    (tmp_path / "home" / "kdx").mkdir(parents=True)
    for verb, name in (("table", "mini-quick"), ("report", "index")):
        assert main([verb, table, "--profile", "quick", "--out", f"~/{verb}"]) == 0
        assert list((tmp_path / "home" / verb).glob(f"{name}.*"))
    assert not (tmp_path / "~").exists()
    assert "no such home" in refused(["status", table, "--results", "~no-such-person/x"], capsys)
    monkeypatch.setenv("KD_METHODS", "~/m")
    assert methods.user_method_folders() == [tmp_path / "home" / "m"]


NOBODY = "~no-such-person/x"


@pytest.mark.parametrize(
    ("variable", "read"),
    [
        ("KD_PLUGINS", plugins.folders),
        ("KD_METHODS", plugins.folders),
        ("KD_PUBLISHED", reader.folders),
        ("TEACHERS", lambda: teacher_table._entry("t", {**ENTRY, "file": NOBODY}, Path())),
    ],
)
def test_the_home_folder_of_nobody_is_one_line(
    variable: str, read: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, NOBODY)
    with pytest.raises((InputError, PublishedError), match=f"{NOBODY}: no such home folder"):
        read()


ENTRY = {"network": "resnet8", "dataset": "digits"}
"""Fields of a teacher in `teachers.toml`."""


# --- threads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", ["1025", "100000", "1000000000000"])
def test_threads_are_bounded(
    threads: str, table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "cores", lambda: 2)
    for argv in (["run", table, *SMALL], ["plan", table, *SMALL], ["bench", "--images", "200"]):
        line = refused([*argv, "--threads", threads], capsys)
        assert "0 (torch's choice) to 1024; this process may use 2 cores" in line
    monkeypatch.setattr(common, "cores", lambda: 300)
    with pytest.raises(Trained):
        main(["run", table, *SMALL, "--precision", "fp32", "--threads", "1200"])


def test_more_threads_than_cores_are_noted_as_slow(
    table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "cores", lambda: 2)
    for threads, said in (("2", 0), ("64", 1)):
        with pytest.raises(Trained):
            main(["run", table, *SMALL, "--precision", "fp32", "--threads", threads])
        assert capsys.readouterr().err.count(f"{threads} threads compete for 2 cores") == said


# --- options that exclude each other, and bounds --------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["reproduce", "crd-table1", "--paper", "crd"], "--paper or --number"),
        (["reproduce", "crd-table1", "--number", "2"], "--paper or --number"),
        (["diff", "crd-table1", "--json", "--format", "csv"], "--json cannot be combined with --format csv"),
        (
            ["diff", "crd-table1", "--curves", "--fail-on", "differs"],
            "--curves cannot be combined with --fail-on",
        ),
        (
            ["diff", "crd-table1", "--curves", "--against", "sskd"],
            "--curves cannot be combined with --fail-on or --against",
        ),
        (["published", "--validate", "--pair", "resnet56:resnet20"], "--validate"),
        (["published", "--validate", "--metric", "top5"], "--validate"),
    ],
    ids=lambda x: x if isinstance(x, str) else " ".join(x),
)
def test_options_that_exclude_each_other_are_refused(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(argv, capsys)


@pytest.mark.parametrize("lines", ["0", "-2"])
def test_logs_needs_at_least_one_line(lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "log.txt").write_text("1\n2\n3\n")
    assert f"--lines {lines}; allowed: 1 and more" in refused(["logs", "a", f"--lines={lines}"], capsys)
    assert main(["logs", "a", "--lines", "1"]) == 0 and capsys.readouterr().out.splitlines()[1:] == ["3"]


@pytest.mark.parametrize("name", ["epochs", "batch_size", "train_images", "test_images"])
def test_integers_of_a_recipe_are_bounded(name: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert " to 1000000" in refused(
        ["plan", table, *FAST, "--set", f"recipe.{name}=99999999999999999999"], capsys
    )
    assert main(["plan", table, *FAST, "--set", f"recipe.{name}=1000000"]) == 0


# --- the cost of the published settings -----------------------------------------------------------------


def published_cost(argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(Trained):
        main(["run", *argv, "--profile", "quick", "--threads", "1", "--precision", "fp32"])
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("as published")]


def test_the_published_cost_ignores_changed_settings(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["crd-table1", "--pairs", "resnet56:resnet20", "--methods", "kd"]
    own = published_cost(argv, capsys)
    assert len(own) == 1 and "about 0.0 GPU-hours" not in own[0]
    assert published_cost([*argv, *SMALL[2:]], capsys) == own


def test_the_published_cost_is_left_out_if_it_is_unknown(
    tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert published_cost([table, "--only", "/quick/"], capsys) == [], (
        "no run of profile paper has such a key"
    )
    assert published_cost(["iusp-table", "--data", str(tmp_path / "none")], capsys) == [], (
        "no clips, and quick needs none"
    )
