"""Bad input that once ended in a traceback, or after the training that it made useless: one line, exit code 2, before anything is done."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import results
from benchmark import methods
from benchmark.__main__ import main, parser
from benchmark.bench import cells
from benchmark.cli import bench_options, common, report
from benchmark.cli.selection import seeds_of
from benchmark.errors import InputError
from benchmark.spec import matrix, protocols
from benchmark.work import local, order

ROOT = Path(__file__).resolve().parents[3]
TABLE = """
title = "Miniature"
paper = "crd"
table = "table1"
dataset = "cifar100"
protocol = "crd"
seeds = 1
columns = ["none:resnet8"]
[[rows]]
label = "Student"
method = "student"
"""
SMALL = [
    "--profile",
    "quick",
    "--set",
    "recipe.train_images=32",
    "--set",
    "recipe.test_images=20",
    "--set",
    "recipe.epochs=1",
]
FAST = [*SMALL, "--threads", "1"]


class Trained(Exception):
    """Training or measuring began."""


@pytest.fixture(autouse=True)
def untrained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever would train or measure here raises instead: bad input is to be said before."""

    def begun(*_: Any, **__: Any) -> Any:
        raise Trained

    monkeypatch.setenv("RESULTS", str(tmp_path / "runs"))
    monkeypatch.setattr(local, "run_plan", begun)
    monkeypatch.setattr(local, "train_pack", begun)
    monkeypatch.setattr(order, "train_pack", begun)
    monkeypatch.setattr(cells, "measure", begun)


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "mini.toml"
    path.write_text(TABLE)
    return str(path)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line of a command that must end with exit code 2."""
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1, (code, errors)
    return errors[0]


@pytest.mark.parametrize("out", ["/etc/passwd", "/proc/x"])
def test_where_the_table_goes_is_looked_at_before_training(
    out: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--out" in refused(["reproduce", table, *FAST, "--out", out], capsys)


def test_results_that_cannot_be_written_are_one_line(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "RESULTS" in refused(["run", table, *FAST, "--results", "/proc/x"], capsys)


@pytest.mark.parametrize("verb", ["table", "report"])
def test_a_folder_that_cannot_be_made_is_said_for_what_is_wanted_of_it(
    verb: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    assert "--out: /proc/x cannot be written to" in refused([verb, table, *SMALL, "--out", "/proc/x"], capsys)


@pytest.mark.parametrize("verb", ["plan", "status", "diff"])
def test_what_only_reads_makes_no_folder(verb: str, table: str, tmp_path: Path) -> None:
    main([verb, table, *SMALL])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini.toml"]


def test_a_file_error_is_one_line(
    table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device", "/somewhere/record.json")

    monkeypatch.setattr(local, "run_plan", full)
    assert refused(["run", table, *FAST], capsys) == "error: /somewhere/record.json: No space left on device"


def test_a_file_that_cannot_grow_is_one_line(table: str, tmp_path: Path) -> None:
    """A limit on a file's size stands for a full disk: in either the writing of a checkpoint fails half-way."""
    argv = [
        sys.executable,
        "-m",
        "benchmark",
        "run",
        table,
        *FAST,
        "--results",
        str(tmp_path / "full"),
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    limit = "import resource, signal, sys, os; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", limit, *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'full'}") and last.endswith("File too large"), last


def test_an_error_without_a_file_or_a_reason_is_not_hidden(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bare(*_: Any, **__: Any) -> Any:
        raise OSError("what is this")

    monkeypatch.setattr(local, "run_plan", bare)
    with pytest.raises(OSError, match="what is this"):
        main(["run", table, *FAST])


def test_output_that_is_not_utf8_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    argv = [
        sys.executable,
        "-m",
        "benchmark",
        "diff",
        "sskd-table3",
        "--profile",
        "paper",
        "--pairs",
        "resnet56:resnet20",
        "--methods",
        "kd",
    ]
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert b"Traceback" not in done.stderr and done.returncode in (0, 1) and b"resnet20" in done.stdout, (
        done.stderr
    )


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


def test_bench_replaces_no_device(capsys: pytest.CaptureFixture[str]) -> None:
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
    assert "2 and more" in refused(["run", table, *FAST, "--set", "recipe.train_images=1"], capsys)


def test_a_data_set_of_one_image_makes_no_batch() -> None:
    protocol, profile = protocols.get_protocol("crd"), protocols.get_profile("paper")
    with pytest.raises(InputError, match="2 and more"):
        protocols.resolve(protocol, profile, "resnet8", (1, 10))
    assert protocols.resolve(protocol, profile, "resnet8", (2, 10)).train_images == 2


def an_order(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "mini.toml"
    path.write_text(TABLE)
    runs = matrix.expand(matrix.load_table(str(path)), "quick").runs
    made: dict[str, Any] = json.loads(
        order.work_order(runs, order.Environment(str(tmp_path / "runs"), "data", device="cpu"))
    )
    return made


def test_what_is_no_work_order_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = an_order(tmp_path)
    assert refused(["work", str(tmp_path)], capsys).count("directory") == 1
    assert "cannot be read" in refused(["work", str(tmp_path / "nothing")], capsys)
    file = tmp_path / "order.json"
    contents = [
        b"", b"no JSON", b"{}", b"[]", b"3", b"null", b"\xff\xfe\x00", b'{"runs": [], "environment": {}}', b"[" * 100_000,
        *(
            json.dumps(x).encode()
            for x in (
                {**good, "runs": []}, {**good, "runs": [3]}, {**good, "runs": [{**good["runs"][0], "seed": "0"}]},
                {**good, "runs": [{**good["runs"][0], "overrides": [1]}]}, {**good, "environment": {**good["environment"], "threads": "1"}},
                {**good, "environment": {**good["environment"], "strange": 1}}, {**good, "environment": {"results": "x"}},
            )
        ),
    ]  # fmt: skip
    for content in contents:
        file.write_bytes(content)
        line = refused(["work", str(file)], capsys)
        assert "work order" in line and "give a work order that `run` or `submit` wrote" in line, content


def test_a_work_order_is_still_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(an_order(tmp_path))))
    with pytest.raises(Trained):
        main(["work", "-"])


@pytest.mark.parametrize("until", ["0", "-1"])
def test_until_is_an_epoch(until: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--until" in refused(["run", table, *FAST, f"--until={until}"], capsys)


@pytest.mark.parametrize("option", ["--pairs", "--methods", "--only"])
@pytest.mark.parametrize("empty", ["", ",", " , "])
def test_an_empty_selection_is_not_everything(
    option: str, empty: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert option in refused(["plan", table, *FAST, option, empty], capsys)


@pytest.mark.parametrize("verb", ["table", "diff", "report"])
def test_single_runs_are_not_chosen_where_cells_are_shown(
    verb: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--only` would be ignored there: a cell is the mean of all its runs."""
    assert "--only" in refused([verb, table, "--only", "seed0"], capsys)


@pytest.mark.parametrize(
    "setting",
    ["kd.temperature=0", "crd.temperature=0", "crd.negatives=0", "crd.momentum=1.5", "crd.dim=0", "ft.k=0"],
)
def test_settings_that_no_loss_can_have(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert setting.partition("=")[0] in refused(["plan", "crd-table1", "--set", setting], capsys)


def test_a_folder_of_teachers_without_one(
    tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else all teachers would be trained here, unasked."""
    assert "no checkpoint in" in refused(["plan", table, *FAST, "--teachers", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = 1", "seeds = 300000", "1 to 1000"),
        ('["none:resnet8"]', '["none:resnet8", "none:resnet8"]', "none:resnet8 twice"),
        (
            'method = "student"',
            'method = "student"\n[[rows]]\nlabel = "Student"\nmethod = "student"',
            "labelled Student twice",
        ),
        ('["none:resnet8"]', "[]", "columns is empty; allowed: one at least"),
        (
            '[[rows]]\nlabel = "Student"\nmethod = "student"',
            "rows = []",
            "rows is empty; allowed: one at least",
        ),
        ('"none:resnet8"', '"resnet14:none"', "pair 'resnet14:none' has no student; allowed: "),
        ('"none:resnet8"', '"none:none"', "pair 'none:none' has no student; allowed: "),
    ],
)
def test_tables_that_say_something_twice_too_often_or_never(
    old: str, new: str, said: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(table).write_text(TABLE.replace(old, new))
    assert said in refused(["plan", table], capsys)


KD_ROW = """
[[rows]]
label = "The row"
method = "kd"
"""


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            KD_ROW + 'set = { "crd.temperature" = 0.3 }',
            "('The row'): set has crd.temperature, which no run of the row has; allowed: settings of kd",
        ),
        (
            KD_ROW.replace("kd", "teacher") + 'set = { "recipe.epochs" = 3 }',
            "('The row'): set has recipe.epochs, which no run of the row has",
        ),
        (
            KD_ROW.replace("kd", "student") + "set = { ce = 0.5 }",
            "('The row'): set has ce, which no run of the row has; allowed: none",
        ),
        (
            KD_ROW + 'from = "crd/tabel1"',
            "('The row'): from = 'crd/tabel1' is not among the printed numbers (did you mean crd/table1?); allowed: ",
        ),
        (
            KD_ROW + 'from = "crd/table1, crdd/table1"',
            "from = 'crdd/table1' is not among the printed numbers (did you mean crd/table1?); allowed: ",
        ),
        (KD_ROW + 'from = "crd"', "from = 'crd' is not among the printed numbers"),
        (
            KD_ROW + 'published = "kdd"',
            "unknown name in `published` of mini.toml, row 2 ('The row'): 'kdd' (did you mean kd?); allowed: ",
        ),
    ],
)
def test_rows_that_name_what_they_do_not_have(
    row: str, said: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(table).write_text(TABLE + row)
    assert said in refused(["plan", table], capsys)


@pytest.mark.parametrize(
    "row",
    [
        KD_ROW
        + 'set = { "kd.temperature" = 3.0, ce = 0.5, "recipe.epochs" = 3 }\nfrom = "crd/table2"\npublished = "kd"',
        KD_ROW.replace('"kd"', '"sskd"') + 'set = { "sskd_head.weight" = 2.0 }',
        KD_ROW.replace('"kd"', '"kd + at"') + 'set = { "kd.weight" = 2.0 }',
        KD_ROW.replace('"kd"', '"hkd"') + 'missing = "no file of it"\nset = { "hkd.weight" = 2.0 }',
    ],
)
def test_rows_that_name_what_they_have(row: str, table: str) -> None:
    Path(table).write_text(TABLE.replace("none:", "resnet14:") + row)
    assert main(["plan", table, "--set", "kd.temperature=8"] if '"kd' in row else ["plan", table]) == 0


def test_a_paper_of_ones_own_need_not_be_known(table: str) -> None:
    """Its printed numbers may be in a KD_PUBLISHED that is not set now, or nowhere."""
    Path(table).write_text(
        TABLE.replace("none:", "resnet14:").replace('"crd"\ntable', '"mine"\ntable')
        + KD_ROW
        + 'published = "kdd"'
    )
    assert main(["plan", table]) == 0


NO_LOSS = "every term has weight 0; allowed: at least one that is not"


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        ("kd", ["ce=0", "kd.weight=0"], f"'kd': {NO_LOSS}"),
        ("dkd", ["ce=0", "dkd.alpha=0", "dkd.beta=0"], f"'dkd': {NO_LOSS}"),
        ("fsp", ["ce=0"], f"'fsp': {NO_LOSS}"),
        ("sskd", ["sskd_head.weight=0"], f"'sskd_head': {NO_LOSS}"),
        ("kd", ["kd.weight=-4"], "'kd': the term kd has weight -4.0; allowed: 0 and more"),
        ("kd+reviewkd", ["reviewkd.weight=-1"], "the term reviewkd has weight -1.0; allowed: 0 and more"),
        ("kd", ["ce=-4"], "'kd': the term ce has weight -4.0; allowed: 0 and more"),
        ("kd", ["recipe.momentum=2"], "recipe.momentum=2.0; allowed: 0 and more, below 1"),
        ("kd", ["recipe.momentum=1"], "recipe.momentum=1.0; allowed: 0 and more, below 1"),
    ],
)
def test_losses_and_optimisers_that_no_paper_means(
    row: str, settings: list[str], said: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(table).write_text(TABLE.replace("none:", "resnet14:") + KD_ROW.replace('"kd"', f'"{row}"'))
    assert said in refused(["run", table, *FAST, *(w for s in settings for w in ("--set", s))], capsys)


@pytest.mark.parametrize("settings", [["ce=0"], ["kd.weight=0"], ["recipe.momentum=0"]], ids=" ".join)
def test_one_term_is_enough(settings: list[str], table: str) -> None:
    Path(table).write_text(TABLE.replace("none:", "resnet14:") + KD_ROW)
    assert main(["plan", table, *SMALL, *(w for s in settings for w in ("--set", s))]) == 0


def test_a_table_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no file nowhere.toml" in refused(["plan", "nowhere.toml"], capsys)


def test_cancel_looks_at_the_table_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown table 'nope'" in refused(["cancel", "nope"], capsys)


@pytest.mark.parametrize("argv", [["cells", "--pairs", ","], ["finals", "--methods", ""]], ids=" ".join)
def test_an_empty_selection_of_bench_is_not_everything(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert argv[-2] in refused(["bench", *argv], capsys)


def reported(argv: list[str]) -> dict[str, set[str]]:
    """Which tables a report without records would show, with their pairs: a key of each is taken for a record."""
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


# --- places -----------------------------------------------------------------------------------------------------------


READING = ["table", "diff", "report", "retry", "cancel", "clean", "logs"]


@pytest.mark.parametrize("verb", READING)
def test_a_results_folder_that_is_not_there_is_a_mistyped_one(
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
def test_before_the_first_run_a_folder_need_not_be_there(
    verb: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, table, *SMALL]) == 0
    assert capsys.readouterr().err == f"RESULTS: no folder {tmp_path / 'runs'} yet, so no run is done\n"


@pytest.mark.parametrize("verb", [*READING, "status", "plan"])
def test_the_usual_results_folder_need_not_be_there(
    verb: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESULTS")
    monkeypatch.setattr(common, "default_folder", lambda: tmp_path / "usual")
    monkeypatch.chdir(tmp_path)
    main([verb, *{"clean": [], "logs": ["some-run"]}.get(verb, [table, *SMALL])])
    assert "no folder" not in capsys.readouterr().err


def test_a_home_is_found_without_a_shell(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make RESULTS='~/x'`, and what dash leaves of `RESULTS=~/x` beside a command."""
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
    (tmp_path / "home" / "m").mkdir()
    (tmp_path / "home" / "m" / "mine.py").write_text("")
    monkeypatch.setenv("KD_METHODS", "~/m")
    assert methods._modules()[-1].__name__ == "kd_methods_mine"


# --- threads ----------------------------------------------------------------------------------------------------------


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


def test_more_threads_than_cores_are_said_to_be_slow(
    table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "cores", lambda: 2)
    for threads, said in (("2", 0), ("64", 1)):
        with pytest.raises(Trained):
            main(["run", table, *SMALL, "--precision", "fp32", "--threads", threads])
        assert capsys.readouterr().err.count(f"{threads} threads compete for 2 cores") == said


# --- what would be lost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["reproduce", "crd-table1", "--paper", "crd"], "--paper or --number"),
        (["reproduce", "crd-table1", "--number", "2"], "--paper or --number"),
        (["diff", "crd-table1", "--json", "--format", "csv"], "--json cannot be combined with --format csv"),
        (
            ["diff", "crd-table1", "--curves", "--fail-on", "below"],
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
def test_of_two_things_that_exclude_each_other_none_is_dropped(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(argv, capsys)


@pytest.mark.parametrize("lines", ["0", "-2"])
def test_lines_of_a_log_are_counted_from_one(
    lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "log.txt").write_text("1\n2\n3\n")
    assert f"--lines {lines}; allowed: 1 and more" in refused(["logs", "a", f"--lines={lines}"], capsys)
    assert main(["logs", "a", "--lines", "1"]) == 0 and capsys.readouterr().out.splitlines()[1:] == ["3"]


@pytest.mark.parametrize("name", ["epochs", "batch_size", "train_images", "test_images"])
def test_a_recipes_whole_numbers_are_bounded(
    name: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "up to 1000000" in refused(
        ["plan", table, *FAST, "--set", f"recipe.{name}=99999999999999999999"], capsys
    )
    assert main(["plan", table, *FAST, "--set", f"recipe.{name}=1000000"]) == 0


# --- what the published settings would cost ---------------------------------------------------------------------------


def published_cost(argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(Trained):
        main(["run", *argv, "--profile", "quick", "--threads", "1", "--precision", "fp32"])
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("as published")]


def test_the_published_cost_is_not_that_of_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["crd-table1", "--pairs", "resnet56:resnet20", "--methods", "kd"]
    own = published_cost(argv, capsys)
    assert len(own) == 1 and "about 0.0 GPU-hours" not in own[0]
    assert published_cost([*argv, *SMALL[2:]], capsys) == own


def test_the_published_cost_is_left_out_where_nothing_is_known_of_it(
    tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert published_cost([table, "--only", "/quick/"], capsys) == [], (
        "no run of profile paper has such a key"
    )
    assert published_cost(["iusp-table", "--data", str(tmp_path / "none")], capsys) == [], (
        "no clips, and quick needs none"
    )
