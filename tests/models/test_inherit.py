"""What a student cannot inherit is said before its run, with the shapes and the cure."""

from freqkd.utils.checkpoints import read_checkpoint

LOSS = "dict(prompts='untrained', loss=dict(channels=64, num_levels=3))"
UNTRAINED = f"model = dict(inherit={{inherit}}, terms=dict(loss_freekd={LOSS}))"


def test_parts_of_other_shapes_are_refused_before_the_run(tool, tiny_config, tmp_path, capsys):
    more = UNTRAINED.format(inherit=("neck", "bbox_head"))
    config = tiny_config(tmp_path / "config.py", "detection", "distill", more)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 1
    text = capsys.readouterr().err
    assert text.startswith("error: inherit: 'neck' must have equal shapes in student and teacher, got ")
    assert "first lateral_convs.0.conv.weight: (32, 32, 1, 1) in the student, (64, 96, 1, 1) in the teacher" in text
    assert "take 'neck' out of inherit, or name a student whose 'neck' has the shapes of the teacher's" in text
    assert not (tmp_path / "run").exists()


def test_a_part_that_the_teacher_lacks_is_refused_before_the_run(tool, tiny_config, tmp_path, capsys):
    more = UNTRAINED.format(inherit=("backbone.layer1.0.extra",))
    config = tiny_config(tmp_path / "config.py", "detection", "distill", more)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 1
    assert "backbone.layer1.0.extra" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_parts_of_equal_shapes_start_from_the_teachers_weights(tool, tiny_config, tmp_path):
    wide = "student=dict(neck=dict(out_channels=64), bbox_head=dict(in_channels=64, feat_channels=64)), "
    terms = "terms=dict(_delete_=True, loss_mse=dict(type='freqkd.DistillTerm', loss=dict(type='freqkd.MSELoss')))"
    more = f"model = dict(inherit=('bbox_head',), {wide}{terms})\noptim_wrapper = dict(optimizer=dict(lr=0.0))"
    config = tiny_config(tmp_path / "config.py", "detection", "distill", more, iterations=1)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 0
    written = read_checkpoint((tmp_path / "run" / "last_checkpoint").read_text())["state_dict"]
    taught = read_checkpoint("data/teachers/blood-cells_retinanet-r18w48.pth")["state_dict"]
    heads = [key for key in taught if key.startswith("bbox_head.")]
    assert len(heads) > 4
    assert all(written[key].half().equal(taught[key].half()) for key in heads)
