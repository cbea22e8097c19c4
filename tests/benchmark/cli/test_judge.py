"""judge: its arguments, its exit code, and logs that become records apart from ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_kit import refused

from benchmark.__main__ import main

CELL = ["judge", "resnet32x4:resnet8x4", "dkd"]
DASHES = "-" * 25


@pytest.fixture(autouse=True)
def empty_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("RESULTS", str(folder))
    return folder


def worklog(path: Path, last: float, best: float, epochs: int = 240) -> str:
    accuracies = dict.fromkeys(range(1, epochs + 1), 50.0) | {200: best, epochs: last}
    blocks = [f"{DASHES}\nepoch: {e}\nlr: 0.05\ntest_acc: {a:.2f}\n{DASHES}\n" for e, a in accuracies.items()]
    path.write_text("".join(blocks) + f"best_acc\t{max(last, best):.2f}", encoding="utf-8")
    return str(path)


def cell_of_diff(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Return the cell of the diff that the logs belong to."""
    table = ["dkd-table1", "--profile", "paper", "--pairs", "resnet32x4:resnet8x4", "--methods", "dkd"]
    assert main(["diff", *table, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    (cell,) = [c for c in cells if c["method"] == "dkd"]
    return cell


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (CELL, "give values or --log FILE"),
        ([*CELL, "76", "--log", "x"], "give values or --log FILE"),
        ([*CELL, "seventy"], "value 'seventy' is not a top-1 in percent"),
        ([*CELL, "nan"], "value 'nan' is not a top-1 in percent"),
        ([*CELL, "7_6"], "value '7_6' is not a top-1 in percent"),
        ([*CELL, "٧٦"], "value '٧٦' is not a top-1 in percent"),
        ([*CELL, "101"], "allowed: 0 to 100"),
        ([*CELL, "0.762"], "looks like a fraction; give percent, e.g. 76.2"),
        ([*CELL, "76", "--teacher-top1", "7_9"], "--teacher-top1 '7_9' is not a top-1 in percent"),
        ([*CELL, "76", "--teacher-top1", "0.79"], "--teacher-top1 '0.79' looks like a fraction"),
        ([*CELL, "76", "--protocol", "crdd"], "unknown protocol 'crdd' (did you mean crd?)"),
        ([*CELL, "76", "--epoch", "first"], "unknown 'first'; allowed: last, best"),
        ([*CELL, "76", "--import"], "--import needs --log FILE and --protocol NAME"),
        ([*CELL, "--log", "x", "--epoch", "last"], "--epoch cannot be combined with --log"),
        ([*CELL, "--log", "/absent"], "/absent: no such file"),
        ([*CELL, "--log", __file__], "no training log with a test accuracy"),
        (["judge", "resnet32x4", "dkd", "76"], "not of the form teacher:student"),
        (["judge", "resnet32x4:resnet8x5", "dkd", "76"], "unknown network 'resnet8x5'"),
        (["judge", "resnet32x4:resnet8x4", "dkdd", "76"], "unknown method 'dkdd' (did you mean dkd?)"),
        (["judge", "resnet32x4:resnet8x4", "teacher", "79"], "judge compares students"),
        (["judge", "ResNet34:ResNet18", "kd", "71"], "no published top-1, so nothing to judge by"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(arguments, capsys)


def test_only_differs_fails(capsys: pytest.CaptureFixture[str]) -> None:
    known = ["--epoch", "best", "--protocol", "mdistiller"]
    assert main([*CELL, "76.1", "76.3", *known]) == 0
    assert "Verdict: undecided" in capsys.readouterr().out
    assert main([*CELL, "70.1", "70.3", *known, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "differs"


def test_imported_logs_stand_beside_our_records(
    tmp_path: Path, empty_results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cell_of_diff(capsys)
    logs = [worklog(tmp_path / "a", 75.8, 76.2), worklog(tmp_path / "b", 75.9, 76.4)]
    logs.append(worklog(tmp_path / "part", 40.0, 41.0, epochs=205))
    text = Path(logs[-1]).read_text(encoding="utf-8").rpartition("best_acc")[0]
    Path(logs[-1]).write_text(text, encoding="utf-8")
    for _ in range(2):  # the second time, nothing is added
        assert main([*CELL, "--protocol", "mdistiller", "--import", "--log", *logs]) == 0
    out = capsys.readouterr()
    assert "imported 2 logs" in out.err and "part: incomplete: 205 of 240 epochs" in out.out
    assert "last 75.85, best 76.30 (n 2), protocol mdistiller" in out.out and "not ours" in out.out
    after = cell_of_diff(capsys)
    (note,) = set(after["notes"]) - set(before["notes"])  # type: ignore[call-overload]
    assert "not ours" in note and "76.30 ± 0.14 (n 2, best epoch)" in note
    assert {**after, "notes": None} == {**before, "notes": None}  # in no mean, and not done
    assert main(["status", "dkd-table1", "--profile", "paper", "--json"]) == 0
    assert '"done": 0' in capsys.readouterr().out
    main(["report", "dkd-table1", "--profile", "paper", "--out", str(tmp_path / "report")])
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "imported logs, not ours" in page
    # another protocol's table does not name them
    assert main(["diff", "crd-table1", "--profile", "paper", "--pairs", "resnet32x4:resnet8x4"]) == 0
    assert "imported logs" not in capsys.readouterr().out
