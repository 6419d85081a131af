"""Whole runs: alone and distilled start equal and see the same images; averaging the weights works."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from freqkd.utils.checkpoints import read_checkpoint, weights_of

SEEN = []


@HOOKS.register_module(name="NoteRun", force=True)
class NoteRun(Hook):
    """Notes the weights a training starts from, the images it sees, and the randomness left after each step."""

    def before_train(self, runner):
        state = {key: value.clone() for key, value in runner.model.state_dict().items()}
        SEEN.append(dict(weights=weights_of(dict(state_dict=state)), paths=[], pixels=[], random=[]))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        SEEN[-1]["paths"].append([sample.img_path for sample in data_batch["data_samples"]])
        SEEN[-1]["pixels"].append([int(image.long().sum()) for image in data_batch["inputs"]])
        SEEN[-1]["random"].append(torch.get_rng_state())


@pytest.mark.parametrize("task", [pytest.param("detection", marks=pytest.mark.long), "segmentation"])
def test_alone_and_distilled_start_from_equal_tensors_and_see_the_same_images(
    tool, tiny_config, trained, tmp_path, task
):
    SEEN.clear()
    prompts = f"model = dict(terms=dict(loss_freekd=dict(prompts={str(trained(task).prompts)!r})))"
    note = "custom_hooks = [dict(type='mmengine.NoteRun')]"
    for kind, more in (("student", ""), ("distill", prompts)):
        config = tiny_config(tmp_path / f"{kind}.py", task, kind, f"{more}\n{note}", iterations=3)
        assert tool("train", config, "--work-dir", tmp_path / kind) == 0
    alone, distilled = SEEN
    assert list(alone["weights"]) == list(distilled["weights"])
    assert all(torch.equal(distilled["weights"][key], value) for key, value in alone["weights"].items())
    assert len(alone["paths"]) == 3
    assert len({path for batch in alone["paths"] for path in batch}) == 6
    assert alone["paths"] == distilled["paths"]
    assert alone["pixels"] == distilled["pixels"]
    assert all(torch.equal(*pair) for pair in zip(alone["random"], distilled["random"], strict=True))


@pytest.mark.long
def test_averaged_weights_are_saved_under_the_students_keys_and_resumed(tool, tiny_config, trained, tmp_path):
    more = (
        f"model = dict(terms=dict(loss_freekd=dict(prompts={str(trained('segmentation').prompts)!r})))\n"
        "custom_hooks = [dict(type='mmengine.EMAHook', momentum=0.5)]\nparam_scheduler = []"
    )
    config = tiny_config(tmp_path / "average.py", "segmentation", "distill", more, iterations=2)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 0
    saved = read_checkpoint(tmp_path / "run" / "iter_2.pth")
    averaged, current = saved["state_dict"], saved["ema_state_dict"]
    assert {key.split(".")[0] for key in averaged} == {"backbone", "neck", "decode_head", "distiller"}
    assert {key.removeprefix("module.") for key in current} - {"steps"} == set(averaged)
    assert not torch.equal(averaged["backbone.conv1.weight"], current["module.backbone.conv1.weight"])
    longer = ("--resume", "--cfg-options", "train_cfg.max_iters=3")
    assert tool("train", config, "--work-dir", tmp_path / "run", *longer) == 0
    resumed = read_checkpoint(tmp_path / "run" / "iter_3.pth")
    assert int(resumed["ema_state_dict"]["steps"]) == int(current["steps"]) + 1
    name = "neck.fpn_convs.0.conv.weight"
    expected = 0.5 * averaged[name] + 0.5 * resumed["ema_state_dict"][f"module.{name}"]
    torch.testing.assert_close(resumed["state_dict"][name], expected)
