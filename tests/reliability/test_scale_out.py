"""Jobs of several processes: the scripts of tools/, and the variables of torchrun, Slurm and Open MPI."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from freqkd.apis.arguments import LAUNCHERS, check_launcher
from freqkd.apis.train import build_runner
from freqkd.utils import processes
from freqkd.utils.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "tools").glob("*.sh"))
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# What a launcher sets in the second of two processes of one node.
JOBS = {
    "pytorch": dict(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500"),
    "slurm": dict(SLURM_PROCID="1", SLURM_NTASKS="2", SLURM_LOCALID="1", SLURM_NODELIST="127.0.0.1"),
    "mpi": {
        f"OMPI_COMM_WORLD_{name}": value
        for name, value in dict(RANK="1", LOCAL_RANK="1", SIZE="2", LOCAL_SIZE="2").items()
    },
}


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that no launcher has set, put back afterwards."""
    for name in [*NAMES, *(name for job in JOBS.values() for name in job)]:
        monkeypatch.setenv(name, "")  # so that what a test sets is undone
        monkeypatch.delenv(name)
    return monkeypatch


# ---- launchers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", JOBS)
def test_the_ranks_of_every_launcher_are_found(launcher: str, clean: pytest.MonkeyPatch) -> None:
    for name, value in JOBS[launcher].items():
        clean.setenv(name, value)
    check_launcher(launcher)
    found = {**JOBS[launcher], **processes.rank_variables(launcher)}
    assert {name: found[name] for name in NAMES} == JOBS["pytorch"]


def test_what_is_set_already_stays(clean: pytest.MonkeyPatch) -> None:
    for name, value in dict(JOBS["slurm"], MASTER_ADDR="first", MASTER_PORT="7").items():
        clean.setenv(name, value)
    found = processes.rank_variables("slurm", port=8)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("first", "7")
    clean.delenv("MASTER_PORT")
    assert processes.rank_variables("slurm", port=8)["MASTER_PORT"] == "8"


def test_an_abbreviated_list_of_nodes(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in dict(JOBS["slurm"], SLURM_NODELIST="node[03-05],other").items():
        clean.setenv(name, value)
    clean.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"MASTER_ADDR must be set .* SLURM_NODELIST=node\[03-05\],other"):
        processes.rank_variables("slurm")
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[03-05],other" ] && printf "node03\\nnode04\\n"\n')
    program.chmod(0o755)
    assert processes.rank_variables("slurm")["MASTER_ADDR"] == "node03"


def test_open_mpi_over_several_nodes_needs_an_address(clean: pytest.MonkeyPatch) -> None:
    for name, value in dict(JOBS["mpi"], OMPI_COMM_WORLD_SIZE="4").items():
        clean.setenv(name, value)
    with pytest.raises(ValueError, match=r"MASTER_ADDR must be set .* 2 of the 4 processes run on this node"):
        processes.rank_variables("mpi")
    clean.setenv("MASTER_ADDR", "first")
    assert processes.rank_variables("mpi")["MASTER_ADDR"] == "first"


@pytest.mark.parametrize("launcher", JOBS)
def test_a_launcher_that_did_not_start_the_process(launcher: str, clean: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"--launcher {launcher} must be started by {LAUNCHERS[launcher][0]}"):
        check_launcher(launcher)


def together(work: Callable[[], Any], launcher: str) -> None:
    """Run `work` in two processes whose variables are those of a launcher; they are copies of this one."""
    port, children = free_port(), []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for name in NAMES:
                    os.environ.pop(name, None)
                ranks = {name: str(rank) for name in JOBS[launcher] if name.endswith(("RANK", "PROCID", "LOCALID"))}
                os.environ.update({**JOBS[launcher], **ranks, "MASTER_PORT": port})
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


@pytest.mark.parametrize("launcher", JOBS)
def test_two_processes_of_a_launcher_meet(launcher: str) -> None:
    def work() -> None:
        processes.start_processes(launcher, dict(dist_cfg=dict(backend="nccl")))  # gloo, without an accelerator
        rank = torch.tensor(float(dist.get_rank()))
        dist.all_reduce(rank)
        assert (float(rank), dist.get_world_size()) == (1.0, 2)
        assert os.environ["LOCAL_RANK"] == str(dist.get_rank())
        dist.barrier()

    together(work, launcher)


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_two_processes_of_a_launcher_train(launcher: str, tool: Any, tiny_config: Any, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "config.py", "detection", "student", iterations=4)

    def work() -> None:
        assert tool("train", config, "--work-dir", tmp_path / "run", "--launcher", launcher) == 0

    together(work, launcher)
    state = read_checkpoint(tmp_path / "run" / "epoch_1.pth")
    assert len(state["freqkd"]["random_states"]) == 2
    assert state["meta"]["iter"] == 2  # of the four of one process


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (dict(), dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None))),
        (
            dict(runner_type="FlexibleRunner"),
            dict(
                strategy=dict(type="DDPStrategy", model_wrapper=dict(type="MMDistributedDataParallel", device_ids=None))
            ),
        ),
        (
            dict(
                runner_type="FlexibleRunner",
                strategy=dict(type="FSDPStrategy", model_wrapper=dict(forward_prefetch=True)),
            ),
            dict(
                strategy=dict(
                    model_wrapper=dict(type="MMFullyShardedDataParallel", device_id="cpu", forward_prefetch=True)
                )
            ),
        ),
    ],
)
def test_the_wrappers_of_processes_without_a_device(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """A Runner has one wrapper, and a FlexibleRunner that of its strategy."""

    def holds(whole: Any, part: Any) -> bool:
        if not isinstance(part, dict):
            return bool(whole == part)
        return all(key in whole and holds(whole[key], value) for key, value in part.items())

    config = Config(dict(model=dict(type="RetinaNet"), **given))
    assert holds(processes.without_devices(config), expected)
    assert config.to_dict() == dict(model=dict(type="RetinaNet"), **given)


def test_a_hook_that_is_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any name, as the message of ChannelsLastHook says; MMEngine fails for names that are not its own."""
    taken: list[Any] = []
    monkeypatch.setattr("freqkd.apis.train.Runner.from_cfg", lambda config: taken.append(config.default_hooks))
    build_runner(Config(dict(default_hooks=dict(timer=None, channels_last=None, mine=dict(type="IterTimerHook")))))
    assert taken == [dict(timer=None, mine=dict(type="IterTimerHook"))]


# ---- scripts --------------------------------------------------------------------------------------------------------


def call(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", f"tools/{script}", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def stub(tmp_path: Path) -> dict[str, str]:
    """An environment in which python and srun print their arguments, one a line."""
    for name in ("python", "srun"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name}\nprintf "%s\\n" "$@"\n')
        program.chmod(0o755)
    return dict(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_there_are_four_scripts() -> None:
    assert SCRIPTS == ["dist_test.sh", "dist_train.sh", "slurm_test.sh", "slurm_train.sh"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_valid_and_says_how_it_is_called(script: str) -> None:
    assert os.access(ROOT / "tools" / script, os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / "tools" / script]).returncode == 0
    found = call(script, "one")
    assert found.returncode == 2
    assert found.stderr.startswith(f"usage: tools/{script} ")


def test_the_command_of_one_node(stub: dict[str, str]) -> None:
    words = call("dist_train.sh", "my config.py", "4", "--amp", "bfloat16", "--cfg-options", "a='b c'", **stub)
    assert words.stdout.splitlines() == [
        *("python", "-m", "torch.distributed.run", "--nnodes=1", "--node_rank=0", "--nproc_per_node=4"),
        *("--master_addr=127.0.0.1", "--master_port=29500", "tools/train.py", "my config.py", "--launcher", "pytorch"),
        *("--amp", "bfloat16", "--cfg-options", "a='b c'"),
    ]


def test_the_command_of_several_nodes(stub: dict[str, str]) -> None:
    places = dict(NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1", PORT="29501")
    words = call("dist_test.sh", "config.py", "student.pth", "8", "--out", "x.pkl", **stub, **places)
    assert words.stdout.splitlines() == [
        *("python", "-m", "torch.distributed.run", "--nnodes=2", "--node_rank=1", "--nproc_per_node=8"),
        *("--master_addr=10.0.0.1", "--master_port=29501", "tools/test.py", "config.py", "student.pth"),
        *("--launcher", "pytorch", "--out", "x.pkl"),
    ]


@pytest.mark.parametrize("given", [("runs/one", "--resume"), ("--resume",), ("runs/one",), ()])
def test_the_command_of_slurm(given: tuple[str, ...], stub: dict[str, str]) -> None:
    """With and without the work dir, which mmdet's script takes and that of mmseg does not."""
    sizes = dict(GPUS="16", SRUN_ARGS="--time=60 --qos=low")
    words = call("slurm_train.sh", "short", "job", "config.py", *given, **stub, **sizes)
    work_dir = ("--work-dir", "runs/one") if "runs/one" in given else ()
    assert words.stdout.splitlines() == [
        *("srun", "--partition=short", "--job-name=job", "--gres=gpu:8", "--ntasks=16", "--ntasks-per-node=8"),
        *("--cpus-per-task=5", "--kill-on-bad-exit=1", "--time=60", "--qos=low", "python", "-u", "tools/train.py"),
        *("config.py", *work_dir, "--launcher", "slurm", *(word for word in given if word == "--resume")),
    ]


def test_the_command_of_a_test_by_slurm(stub: dict[str, str]) -> None:
    words = call("slurm_test.sh", "short", "job", "config.py", "student.pth", "--tta", **stub).stdout.splitlines()
    assert words[-8:] == ["python", "-u", "tools/test.py", "config.py", "student.pth", "--launcher", "slurm", "--tta"]


@pytest.mark.long
def test_two_processes_train_and_test_by_the_scripts(tiny_config: Any, tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path / "config.py",
        "detection",
        "student",
        "val_dataloader = None\nval_cfg = None\nval_evaluator = None",
        iterations=6,
    )
    places = dict(PORT=free_port(), PYTHON=sys.executable, OMP_NUM_THREADS="1")
    run = call("dist_train.sh", str(config), "2", "--work-dir", str(tmp_path / "run"), **places)
    assert run.returncode == 0, run.stderr[-3000:]
    state = read_checkpoint(tmp_path / "run" / "epoch_1.pth")
    assert state["meta"]["iter"] == 3
    assert len(state["freqkd"]["random_states"]) == 2
    words = (str(config), str(tmp_path / "run" / "epoch_1.pth"), "2", "--work-dir", str(tmp_path / "test"))
    run = call("dist_test.sh", *words, "--out", str(tmp_path / "found.pkl"), **places)
    assert run.returncode == 0, run.stderr[-3000:]
    found = pickle.loads((tmp_path / "found.pkl").read_bytes())
    assert len({one["img_id"] for one in found}) == len(found) == 4  # of both processes
