"""The command line: its list of commands, their usage lines, and the scripts in tools/."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from freqkd import __version__
from freqkd.__main__ import COMMANDS, main

TOOLS = Path(__file__).resolve().parent.parent.parent / "tools"
SCRIPTS = {
    "train": "train",
    "test": "test",
    "visualize_masks": "masks",
    "export_student": "export",
    "cache_teacher": "cache",
    "replay": "replay",
    "compare": "compare",
}


def ended(arguments, call=main):
    with pytest.raises(SystemExit) as end:
        call(arguments)
    return end.value.code


def test_the_help_lists_every_command_in_a_line(capsys):
    assert ended(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("commands:") + 1
    assert [line.split()[0] for line in lines[start:]] == list(COMMANDS)
    assert all(len(line) < 110 and len(line.split()) > 4 for line in lines[start:])


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (["trian"], "got 'trian'; did you mean 'train'?\n"),
        (["new_config"], "got 'new_config'; did you mean 'new-config'?\n"),
        (["zzz", "--help-me"], "got 'zzz'\n"),
        ([], "the following arguments are required: COMMAND\n"),
    ],
)
def test_a_wrong_command_names_the_nearest(given, end, capsys):
    assert ended(given) == 2
    assert capsys.readouterr().err.endswith(end)


def test_the_version(capsys):
    assert ended(["--version"]) == 0
    assert capsys.readouterr().out == f"freqkd {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("started", ["/usr/bin/freqkd", "freqkd/__main__.py"])
def test_every_command_says_how_it_was_started(command, started, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [started])
    assert ended([command, "--help"]) == 0
    start = "python -m freqkd" if started.endswith(".py") else "freqkd"
    assert capsys.readouterr().out.startswith(f"usage: {start} {command} [-h]")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_the_commands(script, monkeypatch, capsys):
    path = TOOLS / f"{script}.py"
    spec = importlib.util.spec_from_file_location(f"script_{script}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main is importlib.import_module(COMMANDS[SCRIPTS[script]][0]).main
    monkeypatch.setattr(sys, "argv", [str(path)])
    assert ended(["--help"], module.main) == 0
    assert capsys.readouterr().out.startswith(f"usage: {script}.py [-h]")
    assert len(path.read_text().splitlines()) < 16


def test_a_wrong_input_ends_in_a_line_and_exit_code_1(capsys):
    assert main(["export", "nowhere.py", "nowhere.pth", "--out-dir", "out"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: argument config: config not found: nowhere.py; check the path (looked in "
    )
