"""Own data in written configs: files, classes, heads, the draw of images for validation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from network_pairs import write_random_weights
from PIL import Image

from freqkd.__main__ import main
from freqkd.apis.preflight import check_data
from freqkd.pairs.data import data_settings, head_settings, read_coco, read_folder
from freqkd.pairs.networks import read_network
from freqkd.utils.compat import read_config

CELLS = "data/teachers/blood-cells_retinanet-r18w48.pth"
PUBLISHED = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
TWO = [dict(id=1, name="one"), dict(id=3, name="other"), dict(id=2, name="third"), dict(id=4, name="fourth")]


def test_a_file_without_a_split_is_drawn_from_by_its_seed(coco, tmp_path):
    path, images = coco(10)
    drawn = []
    for seed, out in ((0, "a"), (0, "b"), (1, "c")):
        data = read_coco(path, images, tmp_path / out, seed=seed)
        parts = [json.loads(data.files[f"{name}.json"]) for name in ("train", "val")]
        names = [{image["file_name"] for image in part["images"]} for part in parts]
        drawn.append(names[1])
        assert (len(names[0]), len(names[1])) == (8, 2)
        assert not names[0] & names[1]
        for part in parts:
            assert {box["image_id"] for box in part["annotations"]} <= {image["id"] for image in part["images"]}
    assert drawn[0] == drawn[1] != drawn[2]
    assert "2 of the images were drawn for validation (seed 1)" in " ".join(data.words)


def test_a_file_for_validation_is_taken(coco, tmp_path):
    path, images = coco(4)
    val = "data/samples/blood_cells/annotations/instances_val.json"
    with pytest.raises(ValueError, match="--val-images must be the folder"):
        read_coco(path, images, tmp_path / "out", val)
    data = read_coco(path, images, tmp_path / "out", val, "data/samples/blood_cells/images/val")
    assert data.val["data_prefix"]["img"].endswith("images/val/")
    assert data.val["ann_file"].endswith("instances_val.json")
    assert not (tmp_path / "out").exists()


def test_configs_of_both_networks_take_data_and_classes(baseline, coco, tmp_path):
    path, images = coco(10, categories=TWO)
    student = baseline("retinanet_r18w16_b8-12e_blood")
    weights = tmp_path / "teacher.pth"
    teacher = tmp_path / "teacher_of_four.py"
    teacher.write_text(f"_base_ = [{student!r}]\nmodel = dict(bbox_head=dict(num_classes=4))\n")
    write_random_weights(str(teacher), weights)
    arguments = ["--checkpoint", str(weights), "--method", "details", "kd", "freekd", "--out", str(tmp_path / "out")]
    assert main(["new-config", student, student, *arguments, "--data", path, "--images", images]) == 0
    configs = [
        read_config(tmp_path / "out" / f"{name}.py") for name in ("student", "teacher", "prompts", "distillation")
    ]
    for config in configs:
        for split in ("train", "val", "test"):
            dataset = config[f"{split}_dataloader"].dataset
            assert dataset.metainfo == dict(classes=("one", "other", "third", "fourth"))
            assert dataset.ann_file == str(tmp_path / f"out/{'train' if split == 'train' else 'val'}.json")
        assert config.test_evaluator.ann_file == config.test_dataloader.dataset.ann_file
    assert configs[0].model.bbox_head.num_classes == configs[1].model.bbox_head.num_classes == 4
    assert configs[3].model.student == configs[0].model
    assert configs[3].model.teacher.config == str(tmp_path / "out/teacher.py")
    check_data(configs[3])


def test_a_teacher_of_other_classes_gives_maps_only(baseline, coco, tmp_path, capsys):
    path, images = coco(5, categories=TWO)
    student, teacher = baseline("retinanet_r18w16_b8-12e_blood"), baseline("retinanet_r18w48_b8-36e_blood")
    arguments = ["new-config", student, teacher, "--checkpoint", CELLS, "--data", path, "--images", images]
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out)]) == 0
    assert "The teacher's own classes are others" in (out / "student.py").read_text()
    assert not (out / "teacher.py").exists()
    for method, words in (
        ("kd", "must have the same classes in both networks"),
        ("freekd", "is of other classes than --data"),
    ):
        assert main([*arguments, "--out", str(out), "--method", method]) == 1
        assert words in capsys.readouterr().err


def test_a_folder_of_label_maps_is_drawn_from_and_its_labels_are_counted(baseline, folder, tmp_path):
    data = read_folder(str(folder), tmp_path / "out")
    assert data.classes == tuple(f"class {index}" for index in range(len(data.classes)))
    lists = [data.files[f"{split}.txt"].split() for split in ("train", "val")]
    assert [len(names) for names in lists] == [4, 1]
    config = read_network(baseline("semantic-fpn_r18w16_b8-300i"), "student").config
    settings = data_settings(config, data)
    assert settings["train_dataloader"]["dataset"]["img_suffix"] == ".jpg"


def test_classes_are_named_by_a_file_or_counted_in_label_maps_with_a_palette(folder, tmp_path):
    for path in sorted((folder / "labels").iterdir()):
        labels = np.asarray(Image.open(path)).copy()
        labels[0, 0], labels[0, 1] = 6, 255
        image = Image.fromarray(labels, "P")
        image.putpalette([value for index in range(256) for value in (index, 0, 0)])
        image.save(path)
    assert len(read_folder(str(folder), tmp_path / "out").classes) == 7
    (folder / "classes.txt").write_text("road\nsky")
    assert read_folder(str(folder), tmp_path / "out").classes == ("road", "sky")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    (folder / "classes.txt").unlink()
    with pytest.raises(ValueError, match="label maps must have one channel, whose values are labels, got 3"):
        read_folder(str(folder), tmp_path / "out")


def test_a_folder_in_parts_with_names_is_taken_as_it_is(baseline, tmp_path):
    student = baseline("semantic-fpn_r18w16_b8-300i")
    weights = write_random_weights(student, tmp_path / "teacher.pth")
    arguments = ["--checkpoint", str(weights), "--method", "cwd", "--out", str(tmp_path / "out")]
    assert main(["new-config", student, student, *arguments, "--data", "data/samples/road_scenes"]) == 0
    config = read_config(tmp_path / "out/distillation.py")
    assert config.train_dataloader.dataset.metainfo.classes == (
        "background",
        "obstacle",
        "road",
        "sidewalk",
        "speedbreaker",
    )
    check_data(config)


def test_labels_from_zero_are_classes_where_the_base_has_none_there(tmp_path, folder):
    config = read_network("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py", "student").config
    settings = data_settings(config, read_folder(str(folder), tmp_path / "out"))
    for split in ("train", "val"):
        steps = [
            step for step in settings[f"{split}_dataloader"]["dataset"]["pipeline"] if step["type"] == "LoadAnnotations"
        ]
        assert [step["reduce_zero_label"] for step in steps] == [False]


def test_what_a_base_says_of_its_own_labels_does_not_stay(tmp_path, folder):
    steps = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
    own = dict(type="BaseSegDataset", reduce_zero_label=True, indices=4, ann_file="train.txt", pipeline=steps)
    config = Config(dict(train_dataloader=dict(dataset=own), val_dataloader=dict(dataset=dict(own, indices=None))))
    data = read_folder(str(folder), tmp_path / "out")
    settings = [data_settings(config, data)[f"{split}_dataloader"]["dataset"] for split in ("train", "val")]
    assert [one["reduce_zero_label"] for one in settings] == [False, False]
    assert [one.get("indices", "unchanged") for one in settings] == [None, "unchanged"]
    parted = replace(data, train={key: value for key, value in data.train.items() if key != "ann_file"})
    assert data_settings(config, parted)["train_dataloader"]["dataset"]["ann_file"] == ""


@pytest.mark.parametrize("place", ["images/b.JPG", "labels/b.bmp"])
def test_files_of_several_endings_are_refused(tmp_path, place):
    for path in ("images/a.jpg", "images/b.jpg", "labels/a.png", "labels/b.png"):
        if Path(place).with_suffix("") != Path(path).with_suffix(""):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            Image.new("L", (4, 4)).save(tmp_path / path)
    Image.new("L", (4, 4)).save(tmp_path / place)
    with pytest.raises(
        ValueError, match=rf"--data must have files of one ending in .*{place.split('/')[0]}.*got .*b\."
    ):
        read_folder(str(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_of_masks_have_the_classes():
    model = read_config("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py").model
    found = head_settings(model, 3)
    assert found["panoptic_head"]["num_things_classes"] == 3
    assert found["panoptic_fusion_head"] == dict(num_things_classes=3)
    assert found["panoptic_head"]["loss_cls"]["class_weight"] == [1.0, 1.0, 1.0, 0.1]
    with pytest.raises(ValueError, match="needs a network for instances, got a panoptic one with num_stuff_classes=53"):
        head_settings(read_config("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py").model, 3)


def test_wrapped_data_sets_are_reached(coco, tmp_path):
    config = read_network("mmdet::ssd/ssd300_coco.py", "student").config
    path, images = coco()
    settings = data_settings(config, read_coco(path, images, tmp_path / "out"))
    assert set(settings["train_dataloader"]["dataset"]) == {"dataset"}  # inside RepeatDataset
    assert "ann_file" in settings["val_dataloader"]["dataset"]


def test_heads_in_lists_and_weights_of_classes_follow():
    heads = [dict(type="Shared2FCBBoxHead", num_classes=80), dict(type="Shared2FCBBoxHead", num_classes=80)]
    found = head_settings(dict(roi_head=dict(bbox_head=heads), rpn_head=dict(num_classes=1)), 3)
    assert found == dict(roi_head=dict(bbox_head=[dict(one, num_classes=3) for one in heads]))
    loss = dict(type="CrossEntropyLoss", class_weight=[1.0] * 19 + [0.1])
    found = head_settings(dict(decode_head=dict(num_classes=19, loss_cls=loss)), 2)
    assert found["decode_head"] == dict(num_classes=2, loss_cls=dict(class_weight=[1.0, 1.0, 0.1]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(path="/no/file.json"), "which cannot be read (No such file or directory)"),
        (dict(content="{"), "--data must be a file in COCO's format"),
        (dict(content="[]"), "--data must be a file in COCO's format"),
        (dict(annotations=[]), "must have annotations and categories"),
        (dict(images_folder="/tmp"), "--images must be the folder that file names in --data are relative to"),
        (dict(val="other"), "--val must have the classes of --data"),
        (dict(images=1), "must leave a group of images on either side"),
    ],
)
def test_wrong_data_is_one_sentence(coco, tmp_path, change, words):
    count = change.get("images", 5)
    path, images = coco(count, **({"annotations": []} if "annotations" in change else {}))
    if "content" in change:
        Path(path).write_text(change["content"])
    val = None
    if "val" in change:
        val = str(tmp_path / "val.json")
        Path(val).write_text(json.dumps({**json.loads(Path(path).read_text()), "categories": TWO}))
    with pytest.raises(ValueError, match=r"--data|--val|--images|selection") as error:
        read_coco(change.get("path", path), change.get("images_folder", images), tmp_path / "out", val)
    assert words in str(error.value)


def keys_of(value):
    """Yield all keys of nested dicts and lists."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield key
        if isinstance(item, (dict, list, tuple)):
            yield from keys_of(item)


def test_images_have_the_size_that_the_teacher_was_trained_on(baseline, coco, tmp_path, capsys):
    path, images = coco(10)
    teacher, out = baseline("retinanet_r18w48_b8-36e_blood"), tmp_path / "out"
    arguments = ["--checkpoint", CELLS, "--out", str(out), "--data", path, "--images", images]
    assert main(["new-config", PUBLISHED, teacher, *arguments]) == 0
    config = read_config(out / "distillation.py")
    for split in ("train", "val", "test"):
        resizes = [step for step in config[f"{split}_dataloader"].dataset.pipeline if step.type == "Resize"]
        assert [step.scale for step in resizes] == [(320, 240)]
    words = "Images have the teacher's size, 320x240, in place of 1067x800"
    assert words in capsys.readouterr().out
    assert words in (out / "student.py").read_text()
    assert config.model.terms.loss_details.student_levels == (0, 1, 2)  # of 240 pixels, not of 800


@pytest.mark.parametrize("student", ["mmdet::ssd/ssd300_coco.py", "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py"])
def test_pipelines_that_fix_or_draw_the_size_are_left_with_a_warning(baseline, coco, tmp_path, capsys, student):
    path, images = coco(10)
    weights = write_random_weights(PUBLISHED, tmp_path / "teacher.pth")
    arguments = ["--checkpoint", str(weights), "--out", str(tmp_path / "out"), "--data", path, "--images", images]
    assert main(["new-config", student, PUBLISHED, *arguments]) == 0
    assert "the teacher's of 1067x800, and a teacher sees little" in capsys.readouterr().out
    kept, base = (read_config(config).train_dataloader for config in (tmp_path / "out/student.py", student))
    assert [kept.dataset.dataset.pipeline, kept.dataset.get("pipeline")] == [
        base.dataset.dataset.pipeline,
        base.dataset.get("pipeline"),
    ]


def test_nothing_is_left_of_what_replaces_a_base(baseline, coco, tmp_path):
    path, images = coco(10)
    weights = write_random_weights(PUBLISHED, tmp_path / "teacher.pth")
    arguments = ["--checkpoint", str(weights), "--out", str(tmp_path / "out"), "--data", path, "--images", images]
    assert main(["new-config", PUBLISHED, PUBLISHED, *arguments]) == 0  # whose data set has no metainfo
    assert "_delete_" not in keys_of(read_config(tmp_path / "out/distillation.py").to_dict())
    bare = read_config(baseline("retinanet_r18w48_b8-36e_blood"))
    for key in ("train_cfg", "optim_wrapper"):
        bare.pop(key)
    bare.dump(str(tmp_path / "bare.py"))
    student, out = baseline("retinanet_r18w16_b8-12e_blood"), str(tmp_path / "bare")
    arguments = ["--checkpoint", CELLS, "--out", out, "--method", "freekd"]
    assert main(["new-config", student, str(tmp_path / "bare.py"), *arguments]) == 0
    assert "_delete_" not in keys_of(read_config(f"{out}/prompts.py").to_dict())


def test_test_data_of_another_kind_than_those_of_validation_are_replaced_too(coco, tmp_path):
    steps = [dict(type="LoadImageFromFile")]
    own = dict(type="CocoDataset", metainfo=dict(classes=("a",)), pipeline=steps)
    loaders = {f"{split}_dataloader": dict(dataset=own) for split in ("train", "val")}
    other = dict(type="VOCDataset", data_root="voc", pipeline=steps)
    judges = {f"{split}_evaluator": dict(type="VOCMetric") for split in ("val", "test")}
    base = tmp_path / "base.py"
    Config(dict(model=dict(type="A"), **loaders, test_dataloader=dict(dataset=other), **judges)).dump(str(base))
    settings = data_settings(read_config(base), read_coco(*coco(10), tmp_path))
    assert settings["test_dataloader"]["dataset"]["type"] == "CocoDataset"
    assert settings["test_dataloader"]["dataset"]["test_mode"]
    assert settings["test_evaluator"]["ann_file"] == settings["val_evaluator"]["ann_file"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images", "photos"], "--images needs --data"),
        (["--val", "val.json"], "--val needs --data"),
        (["--val-images", "photos"], "--val-images needs --data"),
        (["--classes", "a", "b"], "--classes needs --data"),
        (["--data", "nofolder"], "--data: nofolder does not exist"),
        (["--data", "FILE", "--images", "IMAGES", "--val-images", "photos"], "--val-images needs --val"),
        (
            ["--data", "FILE", "--images", "IMAGES", "--classes", "a"],
            "--classes is for a folder of label maps, and --data names a file in COCO's format, whose classes are RBC, WBC",
        ),
        (
            ["--data", "FOLDER", "--images", "IMAGES"],
            "--images is for a file in COCO's format, and --data names a folder",
        ),
        (["--data", "FOLDER", "--val", "FILE"], "--val is for a file in COCO's format, and --data names a folder"),
    ],
)
def test_arguments_that_would_do_nothing_are_refused(baseline, coco, folder, tmp_path, capsys, flags, words):
    student, (path, images) = baseline("retinanet_r18w16_b8-12e_blood"), coco()
    named = dict(FILE=path, IMAGES=images, FOLDER=str(folder))
    arguments = ["--checkpoint", CELLS, "--out", str(tmp_path / "out"), *(named.get(flag, flag) for flag in flags)]
    assert main(["new-config", student, student, *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_images_must_be_named(baseline, coco, tmp_path, capsys):
    student, (path, _) = baseline("retinanet_r18w16_b8-12e_blood"), coco()
    arguments = ["--checkpoint", CELLS, "--out", str(tmp_path / "out"), "--data", path]
    assert main(["new-config", student, student, *arguments]) == 1
    assert "--images must name the folder of the images" in capsys.readouterr().err
