"""The folders of KD_PLUGINS and KD_METHODS: which files are read, and what is said of wrong ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins_kit import use

from benchmark import methods, plugins
from benchmark.__main__ import main
from benchmark.errors import InputError

METHOD = "from benchmark.methods import Method\nclass Toy(Method):\n    name = 'NAME'\n"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    methods.clear_cache()


def test_both_variables_list_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path / "old", monkeypatch, "KD_METHODS", a=METHOD.replace("NAME", "toy_a"))
    new = use(tmp_path / "new", monkeypatch, b=METHOD.replace("NAME", "toy_b"), _c="1 / 0")
    assert {"toy_a", "toy_b"} < set(methods.names())
    monkeypatch.setenv("KD_METHODS", str(new))  # listed twice, read once
    methods.clear_cache()
    assert plugins.folders() == [new] and "toy_b" in methods.names()


def test_a_process_elsewhere_gets_the_variables_that_were_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_METHODS", "a")
    monkeypatch.setenv("KD_PLUGINS", os.pathsep.join(("b", "a", "c")))
    assert plugins.environment_variables(lambda number, folder: Path(f"/{folder}{number}")) == {
        "KD_METHODS": "/a0",
        "KD_PLUGINS": os.pathsep.join(("/b1", "/c2")),
    }


def test_errors_name_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = use(tmp_path / "p", monkeypatch, odd="1 / 0")
    with pytest.raises(InputError, match=rf"KD_PLUGINS: {folder / 'odd.py'} cannot be imported: ZeroDiv"):
        methods.names()
    monkeypatch.setenv("KD_PLUGINS", str(tmp_path / "gone"))
    methods.clear_cache()
    with pytest.raises(InputError, match=r"KD_PLUGINS: there is no folder .*gone; list folders that contain"):
        methods.names()


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sealed(path: str) -> list[str]:  # root may read every folder
        raise PermissionError(13, "Permission denied", str(path))

    folder = use(tmp_path / "p", monkeypatch, a=METHOD.replace("NAME", "toy"))
    with monkeypatch.context() as context:
        context.setattr(os, "listdir", sealed)
        with pytest.raises(InputError, match=rf"KD_PLUGINS: {folder} cannot be read \(Permission denied\)"):
            methods.names()


def test_nothing_is_imported_for_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(tmp_path / "p", monkeypatch, odd="raise SystemExit(3)")
    with pytest.raises(SystemExit) as exit_of_help:
        main(["run", "--help"])
    assert exit_of_help.value.code == 0
    assert main(["methods"]) == 2 and "KD_PLUGINS" in capsys.readouterr().err


def test_the_hash_covers_the_files_that_a_file_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "p")
    folder = use(tmp_path / "p", monkeypatch, user="from kd_plugins_helper import f\n")
    hashes = []
    for body in ("return 1", "return 2"):
        (folder / "kd_plugins_helper.py").write_text(f"def f():\n    {body}\n")
        methods.clear_cache()
        hashes.append(plugins.source_hash(next(m for m in plugins.modules() if m.__name__.endswith("user"))))
    assert hashes[0] != hashes[1]
