"""The documents are true: blocks are what commands print; examples, links and commands work."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import models
from benchmark import methods
from benchmark.__main__ import main
from benchmark.__main__ import parser as command_line
from results import published

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))),
    *(ROOT / "slurm" / "README.md", ROOT / "results" / "published" / "README.md"),
)


def generator():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_blocks_are_what_the_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first command runs as `make docs` runs it, the others in this process."""
    docs = generator()
    monkeypatch.chdir(ROOT)
    commands: list[str] = []

    def output(command: str) -> str:
        commands.append(command)
        if len(commands) == 1:
            return str(docs.output(command))
        program, *arguments = shlex.split(command)[1:]
        assert program == "-m" and arguments.pop(0) == "benchmark"
        results = tmp_path / str(len(commands))
        results.mkdir()
        for name in docs.VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in docs.settings(str(results)).items():
            monkeypatch.setenv(name, value)
        code = main(arguments)
        return str(docs.block(command, *_printed(capsys, code)))

    for name in docs.DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert docs.fill(text, output) == text, f"{name} is stale: make docs"
    assert len(commands) >= 5


def _printed(capsys: pytest.CaptureFixture[str], code: int) -> tuple[str, int, str]:
    printed = capsys.readouterr()
    return printed.out, code, printed.err


def test_a_stale_block_is_found() -> None:
    docs = generator()
    text = "a\n<!-- python -m benchmark methods --markdown -->\nold\n<!-- end -->\nb\n"
    assert docs.fill(text, lambda command: f"new {command}\n") == text.replace(
        "old", "new python -m benchmark methods --markdown"
    )


def test_make_targets_and_tables_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w%-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for target in re.findall(r"^    make ([\w-]+)", text, re.MULTILINE):
        assert target in targets or re.sub(r"table\d$", "table%", target) in targets, target
    tables = {p.stem for p in (ROOT / "tables").glob("*.toml")}
    kinds = "table\\d?|ablation|few-shot|noisy-labels|cifar100|transfer|entropy|imagenet"
    named = set(re.findall(rf"`([a-z]+-(?:{kinds})|lightskd|selfkdlib)`", text))
    assert named == tables


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_commands_of_a_document_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
    parser = command_line()
    command = r"^(?:    .*?|<!-- python )(?:-m benchmark|\bkd-tables) (\w.*?)(?: &)?(?: +#.*| -->)?$"
    for arguments in re.findall(command, text, re.MULTILINE):
        parser.parse_args(shlex.split(arguments))


def test_the_readme_counts_what_there_is() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ((networks, of_students),) = re.findall(r"\*\*(\d+) networks and (\d+) methods\*\*", text)
    assert int(networks) == len(models.names())
    assert int(of_students) == sum(methods.get(name).trains_student for name in methods.names())
    (more_than,) = (int(n.replace(",", "")) for n in re.findall(r"More than ([\d,]+) values", text))
    assert more_than < published.load()["value"].notna().sum() <= more_than + 100


def test_the_method_of_contributing_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# benchmark/methods/huber.py\n(.*?)```", text, re.DOTALL)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "huber.py").write_text(code, encoding="utf-8")
    (tmp_path / "own.toml").write_text(
        'title = "One more row"\npaper = "own"\ntable = "t"\ndataset = "digits"\nprotocol = "crd"\n'
        "seeds = 1\n"
        'columns = ["resnet14:resnet8"]\n[[rows]]\nlabel = "KD"\nmethod = "kd"\n',
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_METHODS", str(tmp_path / "methods"))
    monkeypatch.setenv("RESULTS", str(tmp_path / "runs"))
    methods.clear_cache()
    small = [
        "--methods",
        "huber",
        "--profile",
        "quick",
        "--set",
        "recipe.train_images=96",
        "--set",
        "recipe.test_images=50",
    ]
    outputs = []
    run = ["run", "own.toml", *small, "--threads", "1", "--device", "cpu"]
    for argv in (["methods", "huber"], run, ["table", "own.toml", *small, "--out", str(tmp_path / "out")]):
        assert main(argv) == 0
        outputs.append(capsys.readouterr().out)
    monkeypatch.undo()
    methods.clear_cache()
    assert (
        "CE + 0.5 mean(huber(z_s - z_t))" in outputs[0]
        and "weight = 0.5 (float): weight of the term [an example]" in outputs[0]
    )
    assert re.search(r"Huber +\d+\.\d\d", outputs[2]), outputs[2]


def test_a_tables_bibtex_is_that_of_its_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "crd-table1", "--bibtex"]) == 0
    entries = re.findall(r"^@\w+\{([^,]+),", capsys.readouterr().out, re.MULTILINE)
    assert len(entries) == len(set(entries)) >= 12
