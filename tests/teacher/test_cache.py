"""A cached teacher has the maps of the running one, runs once for a view, and refuses what it cannot store."""

import copy
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import pseudo_collate

from freqkd.teacher import Teacher
from freqkd.teacher.entries import entry_path, read_entry

HEADS = dict(detection="bbox_head.retina_cls", segmentation="decode_head.conv_seg")
TASKS = ("detection", "segmentation")


@pytest.mark.parametrize("taps", [("neck",), ("head",), ("neck", "head")], ids="-".join)
@pytest.mark.parametrize("task", TASKS)
def test_losses_are_those_of_the_running_teacher_to_half_precision_and_it_runs_once(cached, photos, step, task, taps):
    model, views = cached(task, taps), photos(task)
    batch = step.batch(model, views, (0, 0), (1, 1))
    first, ran = step.losses(model, batch), step.runs(model)
    second = step.losses(model, batch)
    assert ran == []
    model.teacher = model.teacher.teacher
    running = step.losses(model, batch)
    assert ran
    distilled = [name for name in running if name.startswith("distill.")]
    assert len(distilled) == len(taps)
    for name in running:
        for once, again, live in zip(*(flat(losses[name]) for losses in (first, second, running)), strict=True):
            assert torch.equal(once, again)
            torch.testing.assert_close(once, live, rtol=2e-3, atol=1e-6)
            assert torch.equal(once, live) == (name not in distilled)


def flat(loss):
    return loss if isinstance(loss, list) else [loss]


@pytest.mark.parametrize("task", TASKS)
def test_maps_are_the_teachers_rounded_once(cached, photos, step, task):
    model, views, paths = cached(task), photos(task), ["neck", HEADS[task]]
    model.prepare()
    model.teacher.prepare(paths, model.data_preprocessor)
    images, samples = step.batch(model, views, (0, 0), (1, 1))
    running = model.teacher.extract(images, samples, paths)
    for _ in range(2):
        stored = model.teacher.start(images, samples)()
        assert sorted(stored) == sorted(running)
        for path in paths:
            for one, other in zip(stored[path], running[path], strict=True):
                assert torch.equal(one, other.half().float())
                assert not torch.equal(one, other)


def test_the_teacher_runs_for_what_is_missing_alone_and_order_does_not_matter(cached, photos, step):
    model, views = cached(), photos()
    model.prepare()
    ran = step.runs(model)
    which = [(0, 0), (1, 1), (2, 0)]

    def read(*which):
        return model.teacher.start(*step.batch(model, views, *which))()["neck"]

    read(which[1])
    assert ran == [1, 1]
    maps = read(*which)
    assert ran == [1, 1, 2, 2]
    again = read(*which[::-1])
    assert ran == [1, 1, 2, 2]
    for one, other in zip(maps, again, strict=True):
        assert torch.equal(one, other.flip(0))
        assert not torch.equal(one[0], one[1])
    images, samples = step.batch(model, views, *which)
    running = model.teacher.extract(images, samples, ["neck"])["neck"]
    for one, other in zip(maps, running, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_the_taps_does_not_matter(cached, photos, step, task):
    model, views, paths = cached(task), photos(task), ["neck", HEADS[task]]
    model.prepare()
    first, both = (step.batch(model, views, *which) for which in ([(0, 0)], [(0, 0), (1, 1)]))
    model.teacher.prepare(paths, model.data_preprocessor)
    model.teacher.start(*first)()
    model.teacher.prepare(paths[::-1], model.data_preprocessor)
    stored = model.teacher.start(*both)()  # one view is there, one is not
    running = model.teacher.extract(*both, paths)
    for path in paths:
        for one, other in zip(stored[path], running[path], strict=True):
            torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-3)


def test_what_is_stored_does_not_depend_on_the_students_precision(cached, photos, step):
    model, views = cached(), photos()
    model.prepare()
    images, samples = step.batch(model, views, (0, 0))
    running = model.teacher.extract(images, samples, ["neck"])["neck"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stored = model.teacher.start(images, samples)()["neck"]
    for one, other in zip(stored, running, strict=True):
        assert torch.equal(one, other.half().float())


@pytest.mark.parametrize("sizes", [[(64, 96), (64, 64)], [(64, 64), (64, 96)]])
def test_a_batch_of_several_sizes_is_refused(cached, photos, step, sizes):
    model, views = cached(), photos(sizes=sizes)
    with pytest.raises(
        ValueError, match=r"same size .* 64x64 on its own, its batch 64x96; crop or pad .* batch size to 1"
    ):
        step.losses(model, step.batch(model, views, (0, 0), (1, 0)))
    for index in range(2):
        step.losses(model, step.batch(model, views, (index, 0)))
    found = {read_entry(entry_path(model.teacher.dir, index, 0)).size for index in range(2)}
    assert found == set(sizes)


def test_images_smaller_than_the_padding_share_a_size(cached, photos, step):
    model = cached()
    step.losses(model, step.batch(model, photos(size=(40, 70)), (0, 0)))
    assert read_entry(entry_path(model.teacher.dir, 0, 0)).size == (64, 96)


def test_a_sample_that_is_no_view_and_two_sources_are_refused(cached, photos, step, small):
    model = cached()
    data = model.data_preprocessor(small.raw("detection"), True)
    with pytest.raises(
        ValueError, match=r"wrap train_dataloader.dataset in dict\(type='freqkd.FixedViews', .*views=2\)"
    ):
        step.losses(model, (data["inputs"], data["data_samples"]))
    both = [photos(seed=seed).get_view(0, 0) for seed in range(2)]
    data = model.data_preprocessor(pseudo_collate(both), True)
    with pytest.raises(ValueError, match="put it around the ConcatDataset, not inside"):
        step.losses(model, (data["inputs"], data["data_samples"]))


def test_batch_augmentations_are_refused(cached, photos, step):
    model = cached()
    batch = step.batch(model, photos(), (0, 0))
    model.data_preprocessor.batch_augments = torch.nn.ModuleList([torch.nn.Identity()])
    with pytest.raises(ValueError, match=r"batch_augments must be BatchFixedSizePad alone .* got Identity"):
        step.losses(model, batch)


@pytest.mark.parametrize("value", [70000.0, float("inf"), float("nan")])
def test_what_half_precision_cannot_hold_is_refused(cached, photos, step, value):
    model, views = cached(taps=("neck", "head")), photos()
    model.prepare()
    model.teacher.model.bbox_head.retina_cls.bias.data.fill_(value)
    with pytest.raises(ValueError, match=rf"'bbox_head.retina_cls' must lie within 65504, .* got {value:g}"):
        step.losses(model, step.batch(model, views, (0, 0)))
    assert not model.teacher.dir.exists()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ([], "did not run, so there is nothing to cache"),
        ([torch.zeros(6, 2, 4)], r"one row for each of the 1 images .* got torch.float32 of shape \(6, 2, 4\)"),
        ([torch.zeros(1, 2, dtype=torch.long)], "floating point maps .* got torch.int64"),
    ],
)
def test_maps_that_are_not_one_per_image_are_refused(cached, photos, step, monkeypatch, output, words):
    model = cached()
    monkeypatch.setattr(Teacher, "extract", lambda *args: {"neck": output})
    with pytest.raises(ValueError, match=words):
        step.losses(model, step.batch(model, photos(), (0, 0)))


def test_a_disk_that_is_too_small_is_an_error_before_anything_is_written(cached, photos, step, monkeypatch):
    model, views = cached(), photos(count=1000)
    usage = SimpleNamespace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must lie on a disk with 16.4 MB free, got 10.0 MB"):
            step.losses(model, step.batch(model, views, (0, 0)))
        assert not model.teacher.dir.exists()
    usage.free = 16_400_000
    step.losses(model, step.batch(model, views, (0, 0)))
    assert len(list(model.teacher.dir.rglob("*.safetensors"))) == 1


def test_the_disk_it_needs_is_said_once(cached, photos, step, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    model, views = cached(), photos()
    for _ in range(2):
        step.losses(model, step.batch(model, views, (0, 0), (1, 1)))
    again = cached()
    step.losses(again, step.batch(again, views, (0, 0)))
    words = [line.split("cache: ")[1] for line in capsys.readouterr().out.splitlines() if "a view, " in line]
    # P3 to P7 of 64x96 with 16 channels: 16 (96 + 24 + 6 + 2 + 1) halves and a header, in pages of 4 KiB.
    assert words == [
        "8.2 kB a view, 49.2 kB for 2 views of 3 images; 0 of 6 views are stored, 49.2 kB to come, 10.0 MB free",
        "8.2 kB a view, 49.2 kB for 2 views of 3 images; 2 of 6 views are stored, 32.8 kB to come, 10.0 MB free",
    ]
    stored = entry_path(model.teacher.dir, 0, 0).stat().st_size
    assert 2 * 16 * 129 <= stored <= 8192


def test_nothing_of_it_is_in_the_state_dict_and_copies_share_it(cached, step, distill, photos):
    model, plain = cached(), distill("detection")
    step.losses(model, step.batch(model, photos(), (0, 0)))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert copy.deepcopy(model).teacher is model.teacher


def test_a_rehearsal_needs_no_view_and_writes_nothing(cached):
    model = cached()
    model.rehearse()
    assert not model.teacher.dir.exists()


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        (dict(dir="x"), r"teacher.cache must be dict\(dir=..., views=...\), got the keys \['dir'\]"),
        (dict(dir="x", view=2), r"got the keys \['dir', 'view'\]"),
        (dict(dir="", views=2), "teacher.cache.dir must name a folder, got ''"),
        (dict(dir="x", views=0), "teacher.cache.views must be at least 1, got 0"),
    ],
)
def test_its_arguments_are_checked(cached, cache, words):
    with pytest.raises(ValueError, match=words):
        cached(cache=cache)


def test_a_cache_that_no_term_would_use_is_refused(cached):
    model = cached()
    term = model.terms["loss_freekd"]
    term.adapter = SimpleNamespace(runs_teacher=True, teacher_taps=(), student_taps=())
    with pytest.raises(ValueError, match=r"teacher.cache needs a term that taps the teacher"):
        model.prepare()
