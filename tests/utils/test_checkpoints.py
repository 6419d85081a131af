"""Reading without running, loading strictly, naming weights, writing whole files."""

import os
import pickle
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from freqkd.utils.checkpoints import (
    CheckpointError,
    check_resumable,
    hash_weights,
    load_network,
    load_strict,
    read_checkpoint,
    weights_of,
    write_atomic,
)
from freqkd.utils.loading import guarded_loading


class Payload:
    """Writes a file when it is unpickled, as a malicious checkpoint could do worse."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def payload(tmp_path):
    torch.save(dict(state_dict={"a": torch.ones(2)}, extra=Payload(tmp_path / "ran")), tmp_path / "bad.pth")
    return tmp_path / "bad.pth"


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_code_in_a_file_is_refused_with_the_reason_and_not_run(payload, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"bad.pth .*more than tensors and plain data.*posix.mkdir.*--trust-checkpoint"
    ):
        read_checkpoint(payload)
    assert not (tmp_path / "ran").exists()


def test_inside_a_tool_the_refusal_reads_the_same(payload):
    with pytest.raises(CheckpointError) as outside:
        read_checkpoint(payload)
    with guarded_loading(), pytest.raises(CheckpointError) as inside:
        read_checkpoint(payload)
    assert str(inside.value) == str(outside.value)


def test_inside_a_tool_a_teacher_that_its_config_trusts_is_read(payload, tmp_path):
    with guarded_loading():
        assert "state_dict" in read_checkpoint(payload, trust=True)
        with pytest.raises(CheckpointError, match="more than tensors and plain data"):
            torch.load(payload)


def test_code_in_a_file_is_run_for_who_trusts_it(payload, tmp_path):
    assert torch.equal(read_checkpoint(payload, trust=True)["state_dict"]["a"], torch.ones(2))
    assert (tmp_path / "ran").exists()


def test_tensors_numbers_and_words_are_read(tmp_path):
    value = dict(a=torch.arange(3), b=[1, "two", None, 3.0], c=dict(d=(True, {4})), e=np.float32(5), f=np.arange(6))
    torch.save(value, tmp_path / "plain.pth")
    read = read_checkpoint(tmp_path / "plain.pth")
    assert read["b"] == value["b"]
    assert read["c"] == value["c"]
    assert read["e"] == 5
    assert torch.equal(read["a"], value["a"])
    assert np.array_equal(read["f"], value["f"])


def test_safetensors_are_read_where_the_package_is_installed(tmp_path, monkeypatch):
    path = tmp_path / "plain.safetensors"
    path.touch()
    monkeypatch.setitem(sys.modules, "safetensors.torch", SimpleNamespace(load_file=lambda name: {"a": name}))
    monkeypatch.setitem(sys.modules, "safetensors", SimpleNamespace())
    assert read_checkpoint(path) == {"state_dict": {"a": str(path)}}
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(CheckpointError, match=r"plain.safetensors needs a package that is not installed: safetensors"):
        read_checkpoint(path)


@pytest.mark.long
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_training_checkpoint_of_mmengine_is_read(trained, task):
    read = read_checkpoint(trained(task).checkpoint)
    assert {"state_dict", "optimizer", "message_hub", "meta"} <= set(read)
    history, counts = read["message_hub"]["log_scalars"]["train/loss"].data
    assert len(history) == len(counts) == 10
    assert read["message_hub"]["log_scalars"]["train/loss"].mean(2) == pytest.approx(history[-2:].mean())


@pytest.mark.parametrize("attribute", ["_set_default_statistics", "__init__"])
def test_the_attribute_reader_that_logs_need_serves_nothing_else(tmp_path, attribute):
    from mmengine.logging.history_buffer import HistoryBuffer

    class Reader:
        def __reduce__(self):
            return getattr, (HistoryBuffer, attribute)

    torch.save(dict(a=Reader()), tmp_path / "reader.pth")
    with pytest.raises(CheckpointError, match=attribute):
        read_checkpoint(tmp_path / "reader.pth")


def test_the_attribute_reader_serves_the_log_buffer_only(tmp_path):
    class Reader:
        def __reduce__(self):
            return getattr, (np.ndarray, "tofile")

    torch.save(dict(a=Reader()), tmp_path / "reader.pth")
    with pytest.raises(CheckpointError, match="tofile"):
        read_checkpoint(tmp_path / "reader.pth")


@pytest.mark.parametrize("length", [0, 10, 300, -20])
def test_a_truncated_file_is_called_so(tmp_path, length):
    torch.save(dict(state_dict=net().state_dict()), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[:length])
    with pytest.raises(CheckpointError, match=r"half.pth is (truncated or not a checkpoint|damaged)"):
        read_checkpoint(tmp_path / "half.pth")


def test_a_file_of_another_kind_is_no_checkpoint(tmp_path):
    (tmp_path / "note.pth").write_text("a note")
    with pytest.raises(CheckpointError, match=r"note.pth is (truncated or not a checkpoint|damaged)"):
        read_checkpoint(tmp_path / "note.pth")


def test_a_missing_file_and_a_folder_are_not_found(tmp_path):
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(CheckpointError, match=f"checkpoint not found: {path}"):
            read_checkpoint(path)


def test_what_is_no_dict_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list.pth must hold a dict of weights, got list"):
        read_checkpoint(tmp_path / "list.pth")


def test_a_failed_download_says_what_to_do(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(
        CheckpointError, match=r"cannot download https://example.org/a.pth \(no route\).*checkpoint=PATH"
    ):
        read_checkpoint("https://example.org/a.pth")


def test_a_downloaded_file_is_kept(monkeypatch, tmp_path):
    asked = []

    def fetch(address, target, progress):
        asked.append(address)
        torch.save({"a": torch.ones(1)}, target)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert float(read_checkpoint("https://example.org/a.pth")["a"]) == 1.0
    assert asked == ["https://example.org/a.pth"]


def test_the_weights_of_any_kind_of_checkpoint_are_the_students():
    state = {"a": torch.ones(1), "distiller.loss.align": torch.ones(1), "note": "text"}
    assert list(weights_of(state)) == ["a"]
    assert list(weights_of(dict(state_dict=state, meta={}))) == ["a"]
    assert list(weights_of(dict(state_dict={f"module.{key}": value for key, value in state.items()}))) == ["a"]


def test_weights_under_a_key_of_their_own_are_found(tmp_path):
    state, path = {"a": torch.ones(1)}, tmp_path / "other.pth"
    torch.save(dict(model=state, epoch=3, args=dict(lr=0.1)), path)
    assert list(weights_of(read_checkpoint(path))) == ["a"]
    torch.save(dict(ema=state, model=dict(b=torch.ones(1))), path)
    assert list(weights_of(read_checkpoint(path))) == []  # which of them is not known
    torch.save(dict(model={"a": torch.full((1,), float("nan"))}), path)
    with pytest.raises(CheckpointError, match="finite"):
        read_checkpoint(path)


class Renaming(nn.Module):
    """A module that was called otherwise before its second version, as mmdet's FCOS head."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.conv_cls = nn.Linear(2, 1)

    def _load_from_state_dict(self, state_dict, prefix, metadata, *arguments):
        if (metadata.get("version") or 1) < 2:
            for key in [key for key in state_dict if key.startswith(f"{prefix}fcos_cls")]:
                state_dict[key.replace("fcos_cls", "conv_cls")] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, metadata, *arguments)


def test_a_network_loads_what_mmdet_and_mmseg_load():
    wanted = {key: value + 1 for key, value in net().state_dict().items()}
    extra = {"data_preprocessor.mean": torch.ones(3), "ema_0_weight": torch.ones(1)}
    few = {key: value for key, value in wanted.items() if "num_batches" not in key}
    for content in (wanted, few, few | extra, dict(state_dict=few | extra)):
        model = net()
        said = load_network(model, content, "file.pth")
        assert all(torch.equal(model.state_dict()[key], value) for key, value in few.items())
        expected = "checkpoint file.pth: 2 tensors are not used, first ['data_preprocessor.mean', 'ema_0_weight']"
        assert said == (expected if "data_preprocessor.mean" in weights_of(content) else "")

    renaming = nn.Sequential(Renaming())
    old = {"0.fcos_cls.weight": torch.full((1, 2), 3.0), "0.fcos_cls.bias": torch.zeros(1)}
    assert load_network(renaming, dict(state_dict=old), "old.pth") == ""
    assert renaming[0].conv_cls.weight.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("0.weight"), "1 missing, first"),
        (lambda state: state.update(extra=torch.ones(1)), r"1 unknown, first \['extra'\]"),
        (lambda state: state.update({"0.weight": torch.ones(4, 1, 1, 1)}), "1 of another shape"),
        (
            lambda state: state.update({"0.weight": torch.ones(2, 1, 1, 1, dtype=torch.long)}),
            "1 of another kind of number",
        ),
    ],
)
def test_a_network_of_another_architecture_is_refused(change, words):
    state = net().state_dict()
    change(state)
    with pytest.raises(
        CheckpointError, match=rf"checkpoint file\.pth is not of this architecture \(Sequential\): {words}"
    ):
        load_network(net(), state, "file.pth")


def test_strict_loading_loads():
    model, weights = net(), {key: value + 1 for key, value in net().state_dict().items()}
    load_strict(model, weights, "file.pth")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())


def test_strict_loading_does_without_counters():
    model, weights = net(), {key: value + 1 for key, value in net().state_dict().items() if "num_batches" not in key}
    load_strict(model, weights, "file.pth")
    assert torch.equal(model.state_dict()["1.weight"], weights["1.weight"])


def test_strict_loading_lists_the_first_differences_and_changes_nothing():
    model, weights = net(), dict(net().state_dict())
    weights["2.weight"] = weights.pop("0.bias")
    weights["0.weight"] = torch.ones(4, 1, 1, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_strict(model, weights, "file.pth")
    text = str(error.value)
    assert text.startswith(
        "checkpoint file.pth is not of this architecture (Sequential): 1 missing, first ['0.bias']; "
    )
    assert "1 unknown, first ['2.weight']" in text
    assert "1 of another shape, first 0.weight: (4, 1, 1, 1) in the file, (2, 1, 1, 1) in the model" in text
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_a_hash_tells_values_names_and_shapes_apart_but_not_precision_or_order():
    weights = {"a": torch.tensor([[0.5, 0.25]]), "b": torch.ones(3)}
    known = hash_weights(weights)
    assert hash_weights({key: value.half() for key, value in reversed(weights.items())}) == known
    assert hash_weights({**weights, "x.num_batches_tracked": torch.tensor(5)}) == known
    assert hash_weights({"a": weights["a"].T.contiguous().T, "b": weights["b"]}) == known
    for other in ({"a": weights["a"] + 0.001}, {"a": weights["a"].flatten()}, {"c": torch.ones(3)}):
        assert hash_weights({**weights, **other}) != known


def test_the_hash_of_a_student_does_not_depend_on_how_it_was_trained():
    state = net().state_dict()
    terms = {"distiller.loss.align.weight": torch.ones(3)}
    assert hash_weights(weights_of(dict(state_dict={**state, **terms}))) == hash_weights(weights_of(state))


def test_what_a_training_needs_to_resume_is_looked_for():
    model = nn.ModuleDict(dict(distiller=nn.Linear(1, 1), backbone=nn.Linear(1, 1)))
    check_resumable(model, dict(state_dict={"distiller.weight": 0, "distiller.bias": 0}))
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors of this training, first \['distiller.bias'\]"):
        check_resumable(model, dict(state_dict={"distiller.weight": 0, "backbone.weight": 0}))


def test_writing_replaces_a_file_whole(tmp_path):
    for value in (1, 2):
        write_atomic(dict(a=torch.tensor(value)), tmp_path / "new" / "file.pth")
    assert int(read_checkpoint(tmp_path / "new" / "file.pth")["a"]) == 2
    assert os.listdir(tmp_path / "new") == ["file.pth"]
    assert stat.S_IMODE((tmp_path / "new" / "file.pth").stat().st_mode) == 0o644


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.pth"
    write_atomic(dict(a=torch.tensor(1)), path)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        write_atomic(dict(a=torch.ones(1000), b=lambda: None), path)
    assert int(read_checkpoint(path)["a"]) == 1
    assert os.listdir(tmp_path) == [Path(path).name]
