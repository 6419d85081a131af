"""The table of `python -m freqkd taps`."""

from __future__ import annotations

from freqkd.__main__ import main
from freqkd.pairs.taps import taps_table


def rows(text):
    """Return the rows of a table by their path."""
    return {line.split("  ")[0].strip(): line for line in text.splitlines()[2:]}


def test_a_head_shared_by_levels_has_a_map_and_a_stride_for_each_call(baseline):
    found = rows(taps_table(baseline("retinanet_r18w16_b8-12e_blood")))
    line = found["bbox_head.retina_cls"].split()
    assert line[1] == "5"
    assert line[2:7] == ["27x32x32", "27x16x16", "27x8x8", "27x4x4", "27x2x2"]
    assert line[7:12] == ["8", "16", "32", "64", "128"]
    assert found["bbox_head.retina_cls"].endswith("class scores, DenseLogits")
    assert found["neck"].endswith("feature maps, the usual tap")
    assert "backbone.layer1.0.conv1" not in found
    assert "backbone.relu" not in found


def test_all_lists_the_leaves_of_a_segmenter(baseline):
    found = rows(taps_table(baseline("semantic-fpn_r18w16_b8-300i"), every=True))
    assert found["backbone.layer1.0.conv1"].endswith("leaf")
    assert found["decode_head.conv_seg"].endswith("class scores, SegLogits")
    assert "decode_head" not in found  # mmseg calls it past its hooks


def test_the_command_prints_it_aligned_and_writes_nothing(baseline, capsys, tmp_path, monkeypatch):
    config = baseline("gfl_r18w16")
    monkeypatch.chdir(tmp_path)
    assert main(["taps", config, "--cfg-options", "model.bbox_head.num_classes=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith(("path", "neck ", "bbox_head.gfl_cls "))]
    assert len({line.index(text) for line, text in zip(table, ("maps", "32x32x32", "7x32x32"), strict=True)}) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_one_line(capsys):
    assert main(["taps", "mmdet::retinanet/no.py"]) == 1
    assert "config 'mmdet::retinanet/no.py' not found" in capsys.readouterr().err


def test_a_config_without_a_package_is_refused(capsys, tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("model = dict(type='RetinaNet')\n")
    assert main(["taps", str(path)]) == 1
    assert "network must be a config of mmdet or mmseg" in capsys.readouterr().err
