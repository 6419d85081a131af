"""Teachers and students with transformers: prompts inside a DETR, taps inside heads that take samples."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from small_transformers import build, detr, mask_classifier

from freqkd.models import Distiller
from freqkd.models.prompt_tuner import PromptTuner
from freqkd.teacher.teacher import Teacher

pytestmark = pytest.mark.usefixtures("whole_networks")

MSE = dict(loss=dict(type="freqkd.MSELoss"))


def held(config, folder, scope):
    torch.manual_seed(1)
    torch.save(dict(state_dict=build(config, scope).state_dict()), folder / "teacher.pth")
    return dict(config=dict(model=config, default_scope=scope), checkpoint=str(folder / "teacher.pth"))


def detections(size):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1, 1))
    samples = [DetDataSample(metainfo=meta) for _ in range(2)]
    for sample in samples:
        boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [50.0, 10.0, 90.0, 60.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
    return samples


def segmentations(size=(64, 96)):
    from mmseg.structures import SegDataSample

    labels = torch.randint(3, (2, 1, *size))
    return [SegDataSample(metainfo=dict(img_shape=size), gt_sem_seg=PixelData(data=one)) for one in labels]


@pytest.mark.parametrize("kind", ["detr", "deformable", "dino"])
def test_prompts_are_trained_inside_a_detector_with_a_transformer(tmp_path, kind):
    config, size = detr(kind), (65, 97)  # odd maps: cropped again after the wavelets
    prompts = dict(channels=32, num_levels=config.neck.num_outs, depth=1)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = PromptTuner(held(config, tmp_path, "mmdet"), prompts)
    model.rehearse()
    images, samples = torch.randn(2, 3, *size), detections(size)
    losses = model.train()(images, copy.deepcopy(samples), mode="loss")
    model.parse_losses(losses)[0].backward()
    assert all(float(prompt.tokens.grad.abs().sum()) > 0 for prompt in model.prompts)
    assert ("dn_loss_cls" in losses) == (kind == "dino")  # denoising queries, as in the teacher's own training
    network = model.teacher.model
    assert not network.training
    assert not network.backbone.training
    with torch.no_grad():  # fresh prompts leave the teacher as it is: its losses are its own
        network.bbox_head.train()
        network.training = True
        torch.manual_seed(0)
        own = network(images, copy.deepcopy(samples), mode="loss")
        torch.manual_seed(0)
        again = model(images, copy.deepcopy(samples), mode="loss")
    torch.testing.assert_close(again["loss_cls"], own["loss_cls"], rtol=1e-3, atol=1e-3)
    found = model.eval()(images, copy.deepcopy(samples), mode="predict")
    assert len(found[0].pred_instances) == 6


@pytest.mark.parametrize("tap", ["decode_head.pixel_decoder", "decode_head"])
@pytest.mark.parametrize("kind", ["mask2former", "maskformer"])
def test_taps_inside_a_mask_classifier(tmp_path, kind, tap):
    config = mask_classifier(kind)
    teacher = held(config, tmp_path, "mmseg")
    # Of the heads themselves: the last masks of a Mask2Former, and the classes of all layers of a MaskFormer.
    levels = (0, 1) if tap != "decode_head" else (7,) if kind == "mask2former" else (0,)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = Distiller(config, teacher, dict(loss_mse=dict(MSE, student_tap=tap, student_levels=levels))).train()
    model.init_weights()
    model.rehearse()
    images, samples = torch.randn(2, 3, 64, 96), segmentations()
    loss = model(images, copy.deepcopy(samples), mode="loss")["distill.loss_mse"]
    assert float(loss.detach()) > 0
    loss.backward()
    assert model.student.backbone.conv1.weight.grad.abs().sum() > 0


def test_a_maskformer_sees_padding_only_where_the_samples_say_so(tmp_path):
    teacher = Teacher(**held(mask_classifier("maskformer"), tmp_path, "mmseg"))
    images, samples = torch.randn(2, 3, 64, 96), segmentations()
    path = ["decode_head.cls_embed"]
    whole, named = teacher.extract(images, None, path), teacher.extract(images, samples, path)
    torch.testing.assert_close(named, whole)
    for sample in samples:
        sample.set_metainfo(dict(img_shape=(32, 48)))
    padded = teacher.extract(images, samples, path)
    assert (padded[path[0]][0] - whole[path[0]][0]).abs().max() > 1e-4
    assert "batch_input_shape" not in samples[0].metainfo  # the batch's own samples stay as they are
