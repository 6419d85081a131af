"""Files that try to run code: nothing runs, whichever way they are read."""

from __future__ import annotations

import builtins
import functools
import http.server
import io
import logging
import operator
import os
import pickle
import shutil
import sqlite3
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging.history_buffer import HistoryBuffer
from torch import nn

from freqkd.utils.checkpoints import CheckpointError, check_fit, load_strict, read_checkpoint, write_atomic
from freqkd.utils.loading import guarded_loading

ROOT = Path(__file__).resolve().parent.parent.parent
WEIGHTS = ROOT / "data/teachers/blood-cells_retinanet-r18w48.pth"


class Call:
    """Becomes the result of a call when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


# Calls that leave a trace at a path, each by another function that a file can name.
TRACES = {
    "os.mkdir": lambda path: Call(os.mkdir, path),
    "os.system": lambda path: Call(os.system, f"mkdir {path}"),
    "subprocess.call": lambda path: Call(subprocess.call, ["mkdir", path]),
    "eval": lambda path: Call(eval, f"__import__('os').mkdir({path!r})"),
    "exec": lambda path: Call(exec, f"import os; os.mkdir({path!r})"),
    "open": lambda path: Call(io.open, path, "w"),
    "a partial": lambda path: Call(functools.partial(os.mkdir, path)),
    "a method caller": lambda path: Call(operator.methodcaller("mkdir"), Path(path)),
    "a class's method": lambda path: Call(Path.mkdir, Path(path)),
    "a map": lambda path: Call(list, map(os.mkdir, [path])),
    "pickle.loads": lambda path: Call(pickle.loads, pickle.dumps(Call(os.mkdir, path))),
    "torch's bytes": lambda path: Call(torch.storage._load_from_bytes, saved(dict(a=Call(os.mkdir, path)))),
    "torch.save": lambda path: Call(torch.save, 1, path),
    "numpy.save": lambda path: Call(np.save, path, 1),
    "numpy.memmap": lambda path: Call(np.memmap, path, "uint8", "w+", 0, (1,)),
    "a log file": lambda path: Call(logging.FileHandler, path),
    "a database": lambda path: Call(sqlite3.connect, path),
    "an archive": lambda path: Call(zipfile.ZipFile, path, "w"),
    "a tar": lambda path: Call(tarfile.open, path, "w"),
    "shutil.copy": lambda path: Call(shutil.copy, __file__, path),
    "a config's text": lambda path: Call(Config.fromstring, f"import os\nos.mkdir({path!r})", ".py"),
    "an import": lambda path: Call(builtins.__import__, "this_module_makes_a_folder"),
    "a setter": lambda path: Call(setattr, HistoryBuffer, "freqkd_was_here", path),
    "a log buffer's method": lambda path: Call(HistoryBuffer.register_statistics, Call(os.mkdir, path)),
}
PLACES = {
    "the top": lambda evil: dict(state_dict={}, evil=evil),
    "a weight": lambda evil: dict(state_dict={"backbone.conv1.weight": evil}),
    "the optimizer": lambda evil: dict(state_dict={}, optimizer=dict(state={0: evil})),
    "the log": lambda evil: dict(state_dict={}, message_hub=dict(runtime_info=dict(a=evil))),
    "the averages": lambda evil: dict(state_dict={}, ema_state_dict={"a": evil}),
    "a list": lambda evil: dict(state_dict={}, param_schedulers=[dict(a=[evil])]),
    "the classes": lambda evil: dict(state_dict={}, meta=dict(dataset_meta=dict(classes=evil))),
    "an object array": lambda evil: dict(state_dict={}, meta=dict(a=np.array([evil, None], dtype=object))),
}


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def in_tar(value):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(value)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


FORMATS = {
    "zip": saved,
    "the old format": functools.partial(saved, _use_new_zipfile_serialization=False),
    "a bare pickle": pickle.dumps,
    "an old pickle": functools.partial(pickle.dumps, protocol=0),
    "tar": in_tar,
}
ROWS = [
    (trace, list(PLACES)[number % len(PLACES)], list(FORMATS)[number % len(FORMATS)])
    for number, trace in enumerate(TRACES)
]


@pytest.fixture
def evil(tmp_path):
    """Return `evil(name, trace, place, form)`: a file that leaves a trace at `tmp_path / "ran"` when its code runs."""

    def write(name="evil.pth", trace="os.mkdir", place="the top", form="zip"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FORMATS[form](PLACES[place](TRACES[trace](str(tmp_path / "ran")))))
        return path

    return write


@pytest.fixture(autouse=True)
def _untouched(tmp_path):
    """Whatever a test does: nothing has run."""
    yield
    assert not (tmp_path / "ran").exists()
    assert not hasattr(HistoryBuffer, "freqkd_was_here")


@pytest.mark.parametrize(("trace", "place", "form"), ROWS)
def test_the_reader_runs_no_code(evil, trace, place, form):
    with pytest.raises(
        CheckpointError, match=r"evil.pth is (damaged or holds more than|truncated or not a checkpoint)"
    ):
        read_checkpoint(evil(trace=trace, place=place, form=form))


def test_a_whole_module_is_no_checkpoint(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors and plain data"):
        read_checkpoint(tmp_path / "module.pth")


def test_a_program_of_torchscript_is_no_checkpoint(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pth")
    with pytest.raises(CheckpointError, match=r"script.pth is truncated or not a checkpoint"):
        read_checkpoint(tmp_path / "script.pth")


def test_a_pickle_that_calls_itself_safetensors_is_none(tmp_path, evil):
    pytest.importorskip("safetensors")
    with pytest.raises(CheckpointError):
        read_checkpoint(evil("evil.safetensors"))


def test_a_log_buffer_brings_no_method(tmp_path):
    """Its state may name any attribute; what is called of it is the class's own."""
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    buffer._statistics_methods = {"mean": print}
    torch.save(dict(state_dict={}, log=buffer), tmp_path / "log.pth")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "log.pth")


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("a sparse tensor", torch.eye(3).to_sparse()),
        ("a sparse tensor", torch.eye(4).to_sparse_csr()),
        ("a quantized tensor", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)),
        ("device 'meta'", torch.ones(2, device="meta")),
        ("a complex tensor", torch.ones(2, dtype=torch.complex64)),
        ("1 of 3 numbers that are not finite", torch.tensor([1.0, float("nan"), 2.0])),
        ("2 of 3 numbers that are not finite", torch.tensor([1.0, float("inf"), -float("inf")], dtype=torch.float16)),
    ],
)
def test_tensors_of_another_kind_are_refused_by_name(tmp_path, kind, tensor):
    for place in ("state_dict", "ema_state_dict", "optimizer"):
        torch.save(
            {"state_dict": {}, place: {"a": {"b": [tensor]} if place == "optimizer" else tensor}}, tmp_path / "a.pth"
        )
        with pytest.raises(
            CheckpointError, match=rf"a.pth: {place}.a.* must be a dense tensor of finite numbers, got .*{kind}"
        ):
            read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("state", [[1, 2], "weights", {1: torch.ones(1)}, {"a": [torch.ones(1)]}])
def test_weights_that_are_no_tensors_by_name_are_refused(tmp_path, state):
    torch.save(dict(state_dict=state), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="state_dict"):
        read_checkpoint(tmp_path / "a.pth")


def test_truth_values_in_the_place_of_weights_are_refused(tmp_path):
    """MMEngine would copy them, 1 for each True, and test that."""
    network = nn.Linear(2, 2)
    truth = {"weight": torch.ones(2, 2, dtype=torch.bool), "bias": torch.zeros(2)}
    for check in (load_strict, lambda network, state, source: check_fit(network, state, source, "a.py")):
        with pytest.raises(CheckpointError, match=r"1 of another kind of number, first weight: torch.bool in the file"):
            check(network, truth, "a.pth")


# ---- entry points ------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(tool, tiny_config, trained, tmp_path, capsys):
    """Return `refused(tool, *arguments, kind=, model=, more=)`: it must end in one line with exit code 1 and create nothing."""

    def run(name, *arguments, kind="distill", model="", more="", good=True):
        prompts = f"terms=dict(loss_freekd=dict(prompts={str(trained('detection').prompts)!r}))"
        model = model or (prompts if kind == "distill" else "")
        text = f"model = dict({model})\n{more}" if model else more
        config = tiny_config(tmp_path / "config.py", "detection", kind, text, iterations=2)
        before = set(tmp_path.rglob("*"))
        capsys.readouterr()
        work_dir = [] if name == "export_student" else ["--work-dir", tmp_path / "run"]
        code = tool(name, config, *arguments, *work_dir)
        text = capsys.readouterr().err
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        assert (code, len(lines)) == (1, 1), text[-2000:]
        assert "Traceback" not in text
        assert set(tmp_path.rglob("*")) == before
        return lines[0]

    return run


UNTRAINED = "terms=dict(loss_freekd=dict(prompts='untrained', loss=dict(channels=64, num_levels=3)))"


def teacher(path):
    return f"teacher=dict(checkpoint={str(path)!r}), {UNTRAINED}"


def pretrained(path):
    inner = f"init_cfg=dict(type='Pretrained', checkpoint={str(path)!r})"
    return f"student=dict(backbone=dict({inner})), {UNTRAINED}"


def prompts(path):
    return f"terms=dict(loss_freekd=dict(prompts={str(path)!r}))"


def cached_teacher(path):
    return teacher(path).replace("teacher=dict(", "teacher=dict(cache=dict(dir='OUT', views=2), ")


VIEWS = (
    "train_dataloader = dict(dataset=dict(_delete_=True, type='freqkd.FixedViews', views=2, "
    "dataset={{_base_.train_dataloader.dataset}}))"
)
# Where a file is named, and what else must be said there; another kind of file at each.
ENTRIES = {
    "a distillation's teacher": ("train", dict(model=teacher), "os.system", "a weight", "the old format"),
    "a prompt stage's teacher": (
        "train",
        dict(kind="prompts", model="teacher=dict(checkpoint=EVIL)"),
        "eval",
        "the top",
        "zip",
    ),
    "prompts": ("train", dict(model=prompts), "exec", "a weight", "a bare pickle"),
    "load_from": ("train", dict(more="load_from = EVIL"), "a map", "the log", "zip"),
    "load_from of a student": ("train", dict(kind="student", more="load_from = EVIL"), "open", "the top", "tar"),
    "resume": ("train", dict(arguments=["--resume", "EVIL"]), "pickle.loads", "the optimizer", "zip"),
    "resume of a prompt stage": (
        "train",
        dict(kind="prompts", arguments=["--resume", "EVIL"]),
        "a partial",
        "the log",
        "an old pickle",
    ),
    "a backbone's first weights": ("train", dict(model=pretrained), "torch's bytes", "the top", "zip"),
    "a student's first weights": (
        "train",
        dict(kind="student", model="init_cfg=dict(PRETRAINED)"),
        "subprocess.call",
        "a weight",
        "zip",
    ),
    "weights with a prefix": (
        "train",
        dict(kind="student", model="backbone=dict(init_cfg=dict(PRETRAINED, prefix='backbone.'))"),
        "an archive",
        "a weight",
        "the old format",
    ),
    "a test": ("test", dict(arguments=["EVIL"]), "numpy.save", "the classes", "zip"),
    "a test of a student": ("test", dict(kind="student", arguments=["EVIL"]), "a log file", "the log", "an old pickle"),
    "an export": ("export_student", dict(arguments=["EVIL", "--out-dir", "OUT"]), "a database", "the averages", "zip"),
    "masks of prompts": (
        "visualize_masks",
        dict(kind="prompts", arguments=["--prompts", "EVIL", "--out-dir", "OUT"]),
        "a config's text",
        "the top",
        "zip",
    ),
    "masks of a teacher": (
        "visualize_masks",
        dict(model=teacher, arguments=["--out-dir", "OUT"]),
        "shutil.copy",
        "a list",
        "tar",
    ),
    "a replay": ("replay", dict(arguments=["EVIL"]), "a class's method", "a list", "an old pickle"),
    "a cache's teacher": (
        "cache_teacher",
        dict(model=cached_teacher, more=VIEWS),
        "a setter",
        "the top",
        "a bare pickle",
    ),
}
SCHEMES = {
    "a file's name with ://": "EVIL://evil.pth",
    "an address with a query": "WEB/evil.pth?x=1",
    "an address with a fragment": "WEB/evil.pth#x",
    "an address with another ending": "WEB/evil",
    "torchvision": "torchvision://evil",
    "modelzoo": "modelzoo://evil",
    "open-mmlab": "open-mmlab://evil",
    "mmcls": "mmcls://evil",
    "ceph": "s3://bucket/evil.pth",
    "a cluster of ceph": "cluster:s3://bucket/evil.pth",
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_entry_point_runs_code(entry, evil, refused, tmp_path):
    name, options, trace, place, form = ENTRIES[entry]
    path = evil(trace=trace, place=place, form=form)
    options = dict(options)
    model = options.pop("model", "")
    model = model.replace("PRETRAINED", "type='Pretrained', checkpoint=EVIL") if isinstance(model, str) else model(path)
    model = model.replace("EVIL", repr(str(path)))
    model = model.replace("OUT", str(tmp_path / "out"))
    more = options.pop("more", "").replace("EVIL", repr(str(path)))
    words = {"EVIL": path, "OUT": tmp_path / "out"}
    arguments = [words.get(word, word) for word in options.pop("arguments", [])]
    line = refused(name, *arguments, model=model, more=more, **options)
    assert "evil.pth" in line
    assert "--trust-checkpoint" in line or "truncated or not a checkpoint" in line


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server of files that may answer differently every time, and where addresses of other schemes lead."""
    answers: list[bytes] = []
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers.pop(0) if len(answers) > 1 else answers[0])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    yield address, answers, asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_scheme_runs_code(scheme, evil, refused, web, tmp_path, monkeypatch):
    address, answers, _ = web
    path = evil()
    answers.append(path.read_bytes())
    source = SCHEMES[scheme].replace("WEB", address).replace("EVIL", str(tmp_path / "folder"))
    from mmengine.runner import checkpoint

    where = {"evil": f"{address}/evil.pth"}
    for function in ("get_torchvision_models", "get_external_models", "get_mmcls_models"):
        monkeypatch.setattr(checkpoint, function, lambda: where)
    backend = type("Backend", (), dict(get=lambda self, name: path.read_bytes()))
    monkeypatch.setattr(checkpoint, "get_file_backend", lambda *_, **__: backend())
    if "://" in source and source.startswith("/"):
        Path(source.rsplit("/", 1)[0]).mkdir(parents=True)
        shutil.copy(path, source)
    monkeypatch.setattr(torch.hub, "download_url_to_file", functools.partial(fetch, path))
    line = refused("train", kind="student", more=f"load_from = {source!r}")
    assert "--trust-checkpoint" in line


def fetch(path, address, target, **_):
    """Download, but leave the cache as it was for the test that compares folders."""
    raise CheckpointError(read_error(path))


def read_error(path):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def test_an_address_is_fetched_once_so_that_it_cannot_answer_good_first(evil, web, tool, tiny_config, tmp_path):
    address, answers, asked = web
    good = dict(state_dict=read_checkpoint(WEIGHTS)["state_dict"])
    answers += [saved(good), evil().read_bytes()]
    more = f"load_from = '{address}/teacher.pth?x=1'"
    config = tiny_config(tmp_path / "config.py", "detection", "teacher", more, iterations=1)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 0
    assert asked == ["/teacher.pth?x=1"]


def test_two_addresses_with_one_file_name_are_two(web, tmp_path):
    address, answers, _ = web
    answers += [saved(dict(state_dict={"a": torch.full((1,), value)})) for value in (1.0, 2.0)]
    found = [read_checkpoint(f"{address}/{folder}/net.pth")["state_dict"]["a"].item() for folder in "ab"]
    assert found == [1.0, 2.0]
    assert [read_checkpoint(f"{address}/{folder}/net.pth")["state_dict"]["a"].item() for folder in "ab"] == found


def test_what_was_checked_is_what_is_used(evil, tool, tiny_config, tmp_path, monkeypatch):
    """A file that is replaced between check and load changes nothing."""
    target = tmp_path / "teacher.pth"
    shutil.copy(WEIGHTS, target)
    import freqkd.apis.train

    before = freqkd.apis.train.build_runner

    def replace(config):
        shutil.copy(evil(), target)
        return before(config)

    monkeypatch.setattr(freqkd.apis.train, "build_runner", replace)
    more = f"load_from = {str(target)!r}\noptim_wrapper = dict(optimizer=dict(lr=0.0))\nparam_scheduler = []"
    config = tiny_config(tmp_path / "config.py", "detection", "teacher", more, iterations=1)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 0
    name = "bbox_head.retina_cls.weight"
    trained = read_checkpoint(tmp_path / "run" / "epoch_1.pth")["state_dict"][name]
    assert torch.equal(trained, read_checkpoint(WEIGHTS)["state_dict"][name].float())


@pytest.mark.parametrize("runner", ["Runner", "FlexibleRunner"])
def test_a_config_in_a_checkpoint_is_not_run_on_resume(runner, tool, tiny_config, tmp_path):
    more = "" if runner == "Runner" else "runner_type = 'FlexibleRunner'\nstrategy = dict(type='SingleDeviceStrategy')"
    config = tiny_config(tmp_path / "config.py", "detection", "student", more, iterations=1)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 0
    checkpoint = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=False)
    checkpoint["meta"]["config"] = f"import os\nos.mkdir({str(tmp_path / 'ran')!r})"
    write_atomic(checkpoint, tmp_path / "run" / "epoch_1.pth")
    longer = ("--resume", "--cfg-options", "train_cfg.max_epochs=2")
    assert tool("train", config, "--work-dir", tmp_path / "run", *longer) == 0
    assert (tmp_path / "run" / "epoch_2.pth").exists()


def test_a_hostile_newest_checkpoint_is_passed_over(evil, tool, tiny_config, tmp_path, capsys):
    config = tiny_config(tmp_path / "config.py", "detection", "student", iterations=1)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 0
    (tmp_path / "run" / "last_checkpoint").write_text(str(evil("run/epoch_9.pth")))
    longer = ("--resume", "--cfg-options", "train_cfg.max_epochs=2")
    assert tool("train", config, "--work-dir", tmp_path / "run", *longer) == 0
    assert "epoch_1.pth, because checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMATS)
def test_torch_load_of_any_package_runs_no_code_inside_a_tool(evil, form):
    path = evil(form=form)
    with guarded_loading():
        for options in ({}, dict(weights_only=False), dict(map_location="cpu", pickle_module=pickle)):
            with pytest.raises(CheckpointError):
                torch.load(path, **options)
            with pytest.raises(CheckpointError), open(path, "rb") as file:
                torch.load(file, **options)
    assert torch.load.__module__ == "torch.serialization"


def test_an_annotation_file_that_can_run_code_is_refused(refused, tmp_path):
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran"))))
    more = f"train_dataloader['dataset'] = dict(type='mmengine.BaseDataset', ann_file={str(tmp_path / 'train.pkl')!r})"
    assert "train.pkl" in refused("train", kind="student", more=more)


def test_a_manifest_and_an_entry_of_a_cache_are_data(tmp_path):
    from freqkd.teacher.entries import read_entry
    from freqkd.teacher.manifest import read_manifest

    (tmp_path / "manifest.json").write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran"))))
    with pytest.raises(CheckpointError, match=r"manifest.json is damaged"):
        read_manifest(tmp_path)
    (tmp_path / "0_0.half").write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran"))))
    assert read_entry(tmp_path / "0_0.half") is None


def test_there_are_sixty_files():
    assert len({*ROWS, *ENTRIES, *SCHEMES}) >= 51  # the other tests of this file have some thirty more
