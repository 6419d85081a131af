"""A cache serves what it was made for: anything else is refused, with a message that names what differs."""

import json

import pytest
import torch

from freqkd.teacher.fill import fill_cache
from freqkd.teacher.manifest import write_manifest
from freqkd.utils.checkpoints import CheckpointError


def other_weights(folder, teachers):
    weights = torch.load(teachers["checkpoint"])["state_dict"]
    weights["neck.fpn_convs.0.conv.bias"] += 1
    torch.save(dict(state_dict=weights), folder / "other.pth")
    return str(folder / "other.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(), None),
        (dict(weights=True), r"teacher's weights \([0-9a-f]{12} in the cache, [0-9a-f]{12} in this run\)"),
        (
            dict(option={"model.neck.start_level": 1, "model.backbone.style": "caffe"}),
            r"teacher's config .*caffe.* in this run\)",
        ),
        (
            dict(option={"model.data_preprocessor.pad_value": 7}),
            r"normalisation \(.*padding 0 in the cache, .*padding 7 in this run\)",
        ),
        (
            dict(taps=("neck", "head")),
            r"taps \(\['neck'\] in the cache, \['bbox_head.retina_cls', 'neck'\] in this run\)",
        ),
        (dict(divisor=16), r"padding of the images \(multiples of 32 in the cache, multiples of 16 in this run\)"),
        (dict(count=4), r"number of images \(3 in the cache, 4 in this run\)"),
        (dict(seed=5), r"seed of the views \(0 in the cache, 5 in this run\)"),
        (dict(transforms=("Noise()", "Flip(0.5)")), r"pipeline \(nothing in the cache, 'Flip\(0.5\)' in this run\)"),
        (dict(metainfo=("b",)), r"data set \(.*\"a\".* in the cache, .*\"b\".* in this run\)"),
        (dict(views=3), r"views must be the views of freqkd.FixedViews, 3, got 2"),
    ],
)
def test_a_cache_made_for_anything_else_is_refused(
    cached, photos, step, small, teachers, tmp_path, monkeypatch, change, words
):
    base = cached()
    step.losses(base, step.batch(base, photos(), (0, 0), (1, 1)))
    student = small.config("detection", 4, data_preprocessor__pad_size_divisor=change.get("divisor", 32))
    teacher = dict(cfg_options=change.get("option", {}))
    if "weights" in change:
        teacher["checkpoint"] = other_weights(tmp_path, teachers("detection"))
    if "metainfo" in change:
        monkeypatch.setattr(type(photos().dataset), "metainfo", dict(classes=change["metainfo"]))
    model = cached(taps=change.get("taps", ("neck",)), student=student, **teacher)
    views = photos(**{key: change[key] for key in ("count", "seed", "transforms", "views") if key in change})
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*"))
    if words is None:
        step.losses(model, step.batch(model, views, (0, 0), (1, 1)))
    else:
        with pytest.raises(ValueError, match=words) as refusal:
            step.losses(model, step.batch(model, views, (0, 0), (1, 1)))
        assert ("name another dir in teacher.cache, or delete this one" in str(refusal.value)) == (
            "views" not in change
        )
        assert str(refusal.value).count(" in the cache, ") == (0 if "views" in change else 1)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")) == before


def test_another_number_of_views_is_another_cache(cached, photos, step, tmp_path):
    model = cached()
    step.losses(model, step.batch(model, photos(), (0, 0)))
    other = cached()
    other.teacher.views = 3
    with pytest.raises(CheckpointError, match=r"made for something else: views \(2 in the cache, 3 in this run\)"):
        step.losses(other, step.batch(other, photos(views=3), (0, 0)))


def test_a_view_with_other_pixels_is_refused(cached, photos, step, monkeypatch):
    model, views = cached(), photos()
    step.losses(model, step.batch(model, views, (0, 0), (1, 1)))
    kind = type(views.dataset)
    draw = kind.__getitem__

    def brighter(self, index):
        item = draw(self, index)
        item["inputs"][0, 0, 0] ^= 1
        return item

    monkeypatch.setattr(kind, "__getitem__", brighter)
    with pytest.raises(CheckpointError, match=r"view 0 of image 0 has other pixels than when it was stored"):
        step.losses(model, step.batch(model, views, (0, 0), (1, 1)))


def test_the_first_manifest_stays(tmp_path):
    for teacher in "ab":
        write_manifest(tmp_path, dict(teacher=teacher, network="", data="", pipeline=""))
    assert json.loads((tmp_path / "manifest.json").read_text())["key"]["teacher"] == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(("text", "words"), [(None, "maps without a manifest.json"), ("{", "manifest.json is damaged")])
def test_a_folder_without_a_manifest_is_refused(cached, photos, step, text, words):
    model = cached()
    batch = step.batch(model, photos(), (0, 0))
    step.losses(model, batch)
    manifest = model.teacher.dir / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    with pytest.raises(CheckpointError, match=words):
        step.losses(cached(), batch)


def test_a_full_cache_of_something_else_is_not_taken_for_done(cached, photos):
    assert fill_cache(cached(), photos()) == 6
    with pytest.raises(CheckpointError, match="seed of the views"):
        fill_cache(cached(), photos(seed=1))
