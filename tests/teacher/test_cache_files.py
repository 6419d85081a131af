"""Files of the cache are whole or not there, whatever stops a process; filling continues where it stopped."""

import json
import multiprocessing
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from freqkd.datasets.fixed_views import VIEW
from freqkd.teacher import Teacher, entries
from freqkd.teacher.entries import Entry, count_entries, entry_path, read_entry, write_entry
from freqkd.teacher.fill import fill_cache
from freqkd.utils.checkpoints import CheckpointError

TASKS = ("detection", "segmentation")


def one_map(value=1.0):
    return {"neck": [torch.full((2, 3, 4), value).half()]}


def values_of(path):
    """Return all values of a file."""
    entry = read_entry(path)
    row = np.empty(entry.count, np.float16)
    assert entry.read_into(row)
    return row


def dying_write(path):
    os.replace = lambda *args: os._exit(9)
    write_entry(path, (8, 8), 0, one_map(2.0))


def test_a_kill_before_an_entry_is_whole_leaves_what_was_there(tmp_path):
    fresh, old = entry_path(tmp_path, 0, 0), entry_path(tmp_path, 0, 1)
    write_entry(old, (8, 8), 0, one_map(1.0))
    for path in (fresh, old):
        process = multiprocessing.get_context("fork").Process(target=dying_write, args=(path,))
        process.start()
        process.join()
        assert process.exitcode == 9
    assert len(list(fresh.parent.glob("*.part"))) == 2
    assert read_entry(fresh) is None
    assert values_of(old).tolist() == [1.0] * 24


def test_counting_survives_a_draft_that_is_finished_meanwhile(tmp_path, monkeypatch):
    write_entry(entry_path(tmp_path, 0, 0), (8, 8), 0, one_map())
    (entry_path(tmp_path, 0, 0).parent / ".gone.part").write_bytes(b"")
    listed = list(os.scandir(entry_path(tmp_path, 0, 0).parent))
    (entry_path(tmp_path, 0, 0).parent / ".gone.part").unlink()
    monkeypatch.setattr(entries, "os", SimpleNamespace(scandir=lambda folder: listed))
    assert count_entries(tmp_path) == 1


@pytest.mark.parametrize("keep", [0, 5, 16, 40, -1])
def test_a_truncated_entry_is_made_again(cached, photos, step, keep):
    model, views = cached(), photos()
    batch = step.batch(model, views, (0, 0))
    first = step.losses(model, batch)
    path = entry_path(model.teacher.dir, 0, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert read_entry(path) is None
    ran = step.runs(model)
    second = step.losses(model, batch)
    assert ran == [1, 1]
    assert path.read_bytes() == whole
    assert torch.equal(first["distill.loss_freekd"], second["distill.loss_freekd"])


@pytest.mark.parametrize("place", [-1, -300], ids=["the last value", "a value in the middle"])
def test_values_that_are_not_what_was_written_are_computed_again(cached, photos, step, place, capsys):
    model, views = cached(), photos()
    batch = step.batch(model, views, (0, 0), (1, 0))
    first = step.losses(model, batch)
    path = entry_path(model.teacher.dir, 1, 0)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 0b1000
    path.write_bytes(bytes(damaged))
    ran = step.runs(model)
    capsys.readouterr()
    second = step.losses(model, batch)
    assert ran == [2, 2]  # for the damaged view, as many images as the first time
    assert path.read_bytes() == whole
    assert torch.equal(first["distill.loss_freekd"], second["distill.loss_freekd"])
    assert f"the values in {path} are not those that were written (checksum)" in capsys.readouterr().out
    step.losses(model, batch)
    assert ran == [2, 2]


def test_a_disk_that_gives_other_values_once_more_ends_the_training(cached, photos, step, monkeypatch):
    model, views = cached(), photos()
    batch = step.batch(model, views, (0, 0))
    monkeypatch.setattr(Entry, "read_into", lambda entry, row: False)
    with pytest.raises(
        CheckpointError, match=r"0_0.safetensors does not hold the values that were just written to it; check the disk"
    ):
        step.losses(model, batch)


def test_an_error_while_writing_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_entry(entry_path(tmp_path, 0, 0), (8, 8), 0, one_map())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_drafts_of_killed_processes_are_removed_and_those_of_running_ones_are_not(cached, photos, step):
    model, views = cached(), photos()
    old, new = (entry_path(model.teacher.dir, 0, 1).with_name(f".{name}.part") for name in ("old", "new"))
    step.losses(model, step.batch(model, views, (0, 0)))
    for path in (old, new):
        path.write_bytes(b"half")
    stored = entry_path(model.teacher.dir, 0, 0)
    for path in (old, stored):
        os.utime(path, (0, 0))
    fill_cache(cached(), views)
    assert not old.exists()
    assert new.exists()
    assert stored.stat().st_mtime == 0


def test_two_processes_may_fill_one_folder(cached, photos, tmp_path):
    views = photos(count=8)
    models = [cached(folder=tmp_path / "both") for _ in range(2)]
    alone = cached(folder=tmp_path / "alone")
    for model in (*models, alone):
        model.prepare()
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(2)

    def work(model):
        start.wait()
        fill_cache(model, views, batch_size=2)

    processes = [fork.Process(target=work, args=(model,)) for model in models]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert fill_cache(alone, views, batch_size=2) == 16
    assert not list((tmp_path / "both").rglob(".*"))
    for index in range(8):
        for view in range(2):
            paths = [entry_path(tmp_path / name, index, view) for name in ("both", "alone")]
            one, other = map(read_entry, paths)
            assert (one.pixels, one.size, one.shapes) == (other.pixels, other.size, other.shapes)
            np.testing.assert_array_equal(*map(values_of, paths))
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("both", "alone")]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("task", TASKS)
def test_filling_continues_where_it_stopped(cached, photos, step, task, monkeypatch, capsys):
    views, model = photos(task), cached(task)
    seen, original = [], Teacher.extract

    def stop_after_two(self, inputs, samples, paths):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(samples[0].metainfo[VIEW][:2])
        return original(self, inputs, samples, paths)

    monkeypatch.setattr(Teacher, "extract", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        fill_cache(model, views)
    monkeypatch.setattr(Teacher, "extract", original)
    assert len(set(seen)) == 2
    again = cached(task)
    again.prepare()
    ran = step.runs(again)
    assert fill_cache(again, views, batch_size=4) == 4  # with the first view, which is looked at though it may be there
    assert set(ran) == {4}  # the last bits of the maps depend on the number of images
    assert fill_cache(cached(task), views) == 0
    total = sum(path.stat().st_size for path in model.teacher.dir.rglob("*.safetensors"))
    assert f"6 of 6 views are stored, 0 of them new, {total / 1000:.1f} kB ({total} bytes)" in capsys.readouterr().out
    ran = step.runs(model)
    step.losses(model, step.batch(model, views, (0, 0), (2, 1)))
    assert ran == []


def test_filling_groups_images_of_one_size(cached, photos, step):
    sizes = [(64, 96), (64, 64), (60, 90), (64, 64)]
    views, model = photos(sizes=sizes), cached()
    model.prepare()
    ran = step.runs(model)
    assert fill_cache(model, views, batch_size=4) == 8
    assert ran == [4, 4, 4, 4]


def test_a_teacher_without_a_cache_is_not_filled(distill, photos):
    with pytest.raises(ValueError, match=r"teacher.cache must be set to fill a cache"):
        fill_cache(distill("detection"), photos())


def test_anyone_can_read_a_file(cached, photos, step):
    """A view is an ordinary safetensors file: maps of the neck by name, in half precision."""
    model = cached()
    batch = step.batch(model, photos(), (0, 0))
    step.losses(model, batch)
    found = load_file(entry_path(model.teacher.dir, 0, 0))
    running = model.teacher.extract(*batch, ["neck"])["neck"]
    assert list(found) == [f"neck/{index:03d}" for index in range(5)]
    for one, other in zip(found.values(), running, strict=True):
        assert torch.equal(one, other[0].half())
