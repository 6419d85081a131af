"""A user's error is one line and exit code 1; a fault of the package keeps its traceback and asks to be reported."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from freqkd.models.options import build_part
from freqkd.taps import FeatureTap
from freqkd.utils import checks
from freqkd.utils.compat import read_config
from freqkd.utils.errors import FAULT, is_user_error, one_line, run_tool, worded

HINT = "(set FREQKD_TRACEBACK=1 to see where it came from)"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def reported(capsys, monkeypatch):
    """Return `reported(main)`: the exit code of a tool and its standard error."""
    monkeypatch.delenv("FREQKD_TRACEBACK", raising=False)

    def run(main):
        code = run_tool(main, [])
        return code, capsys.readouterr().err

    return run


def boxes_of_a_network_without_boxes():
    from mmdet.evaluation import CocoMetric

    CocoMetric().process({}, [dict(img_id=1)])


def users(error):
    """A main that raises an error, as a library or a user's own module would."""

    def main(arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "line"),
    [
        (lambda _: checks.check_at_least("tau", -1.0, 0), "tau must be at least 0, got -1.0"),
        (lambda _: read_config("nowhere.py"), "config not found: nowhere.py; check the path"),
        (lambda _: read_config("mmdet::retinanet/nowhere.py"), "mmdet::retinanet/nowhere.py"),
        (lambda _: Path("/nowhere/file").read_text(), "No such file or directory: /nowhere/file; check that path"),
        (lambda _: Path("/dev").read_text(), "Is a directory: /dev; check that path"),
        (
            users(OSError(errno.ENOSPC, "No space left on device", "/a/b")),
            "No space left on device: /a/b; free some space",
        ),
        (users(OSError(errno.EMFILE, "Too many open files")), "Too many open files; raise the limit (ulimit -n)"),
        (users(OSError(errno.EROFS, "Read-only file system", "/a")), "Read-only file system: /a; name a folder"),
        (lambda _: torch.zeros(10**15), "can't allocate memory"),
        (lambda _: bytearray(1 << 60), "MemoryError"),
        (lambda _: torch.save([torch.zeros(10**5)], "/dev/full"), "a file could not be written whole"),
        (users(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")), "OutOfMemoryError: CUDA out of"),
        (users(KeyError("bbox_head")), "KeyError: bbox_head (raised in"),
        (lambda _: boxes_of_a_network_without_boxes(), "KeyError: pred_instances (raised in mmdet/"),
        (users(AssertionError()), "AssertionError: no message (raised in"),
        (users(RuntimeError("one\ntwo\n  three")), "RuntimeError: one two three (raised in"),
        (
            users(RuntimeError("CUDA error\nException raised from x at y.cpp:3\nframe #0: z")),
            "RuntimeError: CUDA error (r",
        ),
        (lambda _: build_part("loss", dict(type="freqkd.MSELoss", loss_weight="x", other=1)), "got 'other'"),
    ],
)
def test_what_a_user_can_cause_is_one_line(reported, main, line):
    code, text = reported(main)
    assert code == 1
    assert text.startswith("error: ")
    assert line in text
    assert text.endswith(f"{HINT}\n")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("main", "kind"),
    [
        (lambda _: FeatureTap(None, ["neck"]), "AttributeError"),
        (lambda _: checks.as_maps(torch.zeros(1), 3), "TypeError"),
        (lambda _: checks.nearest("x", None), "TypeError"),
        (lambda _: checks.upcast("x"), "AttributeError"),
    ],
)
def test_what_a_user_cannot_cause_keeps_its_traceback(reported, main, kind):
    code, text = reported(main)
    assert code == FAULT
    assert "Traceback (most recent call last)" in text
    assert f"{kind}: " in text
    assert "This is a fault of freqkd, not of your input: please report it" in text.splitlines()[-1]


def test_a_value_error_of_an_operation_is_a_fault(reported):
    """Python's own `not enough values to unpack` is a ValueError, too."""
    code, text = reported(lambda _: exec(compile("a, b = [1]", str(ROOT / "freqkd/utils/checks.py"), "exec")))
    assert code == FAULT
    assert "not enough values to unpack" in text
    code, _ = reported(lambda _: exec(compile("raise ValueError('x')", str(ROOT / "freqkd/utils/checks.py"), "exec")))
    assert code == 1


def test_an_error_that_a_library_repeats_keeps_its_origin():
    def wrapping(source, file):
        try:
            exec(compile(source, file, "exec"))
        except Exception as error:
            raise type(error)(f"class `X` in x.py: {error}") from error

    for file, expected in ((str(ROOT / "freqkd/utils/checks.py"), False), ("/home/user/own.py", True)):
        with pytest.raises(TypeError) as caught:
            wrapping("len(3)", file)
        assert is_user_error(caught.value) is expected


class Broken(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise KeyError(f"no image\n{index}")


def test_the_original_error_of_a_worker_is_the_line(reported):
    code, text = reported(lambda _: list(DataLoader(Broken(), num_workers=1)))
    assert code == 1
    assert text.count("\n") == 1
    assert text.startswith("error: KeyError: ")
    assert "no image" in text
    assert "Traceback" not in text
    assert "test_errors.py" in text


def test_long_messages_are_cut(reported):
    code, text = reported(users(TypeError("begin " + 5000 * "x" + " end")))
    assert code == 1
    assert len(text) < 1300
    assert "error: TypeError: begin x" in text
    assert "x end (raised in" in text


def test_the_rest_stays_as_it_is(reported, monkeypatch):
    assert reported(lambda _: None) == (0, "")
    assert reported(users(KeyboardInterrupt()))[0] == 130
    with pytest.raises(SystemExit, match="3"):
        reported(users(SystemExit(3)))
    monkeypatch.setenv("FREQKD_TRACEBACK", "1")
    with pytest.raises(ValueError, match="tau must be at least 0"):
        run_tool(lambda _: checks.check_at_least("tau", -1.0, 0), [])


def test_worded_names_the_slot_in_the_errors_of_others_only():
    with pytest.raises(ValueError, match=r"^tau must be"), worded("slot"):
        checks.check_at_least("tau", -1.0, 0)
    with pytest.raises(ValueError, match=r"^slot: KeyError: x \(raised in"), worded("slot"):
        raise KeyError("x")
    with pytest.raises(AttributeError), worded("slot"):
        checks.upcast("x")
    with pytest.raises(ValueError, match=r"^slot: AttributeError: "), worded("slot", built=True):
        checks.upcast("x")
    assert one_line(KeyError("a b")) == "KeyError: a b"


@pytest.mark.parametrize("name", ["train", "test", "export_student", "visualize_masks", "cache_teacher"])
def test_every_tool_says_how_to_see_more(name, tool, capsys):
    with pytest.raises(SystemExit):
        tool(name, "--help")
    assert "FREQKD_TRACEBACK=1" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/proc/mounts").exists(), reason="needs to mount a small disk")
def test_a_full_disk_is_one_line(tool, tmp_path, capsys):
    """A student's export to a disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        weights = ROOT / "data/teachers/blood-cells_retinanet-r18w48.pth"
        config = "configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py"
        assert tool("export_student", config, weights, "--out-dir", disk / "out") == 1
        text = capsys.readouterr().err
        assert text.startswith("error: a file could not be written whole")
        assert "the disk is full" in text
        assert text.count("\n") == 1
        assert list((disk / "out").glob("*.pth")) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
