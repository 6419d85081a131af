"""A teacher of a function: its input is the student's image normalised its way, its tokens lie where the pixels are."""

import inspect
import re

import pytest
import torch
from toy_transformer import make_transformer

from freqkd.models.prompt_tuner import PromptTuner
from freqkd.teacher import CachedTeacher, ModuleTeacher, build_teacher
from freqkd.utils.checkpoints import CheckpointError, hash_weights

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
TOY = dict(module="toy_transformer:make_transformer", mean=[127.5] * 3, std=[127.5] * 3)
TOKENS = dict(TOY, tokens=dict(patch=14, skip=1))


def term(**changes):
    align = dict(type="freqkd.ConvAlign", student_channels=8, teacher_channels=16, resize="teacher")
    return dict(
        dict(
            student_tap="neck",
            teacher_tap="blocks.1",
            student_levels=(1,),
            teacher_levels=(0,),
            align=align,
            loss=dict(type="freqkd.MSELoss"),
        ),
        **changes,
    )


@pytest.fixture
def prepared(small):
    """Return `prepared(paths, size, **options)`: a teacher, and an image as the student's preprocessor gives it."""

    def make(paths, image=(64, 96), **options):
        teacher = build_teacher(dict(TOKENS, **options))
        student = small.build(small.config("detection", 4), "detection")
        teacher.prepare(paths, student.data_preprocessor)
        data = student.data_preprocessor(small.raw("detection", (image, image)), True)
        return teacher, data["inputs"], data["data_samples"]

    return make


def test_the_network_sees_the_pixels_normalised_its_way_and_resized_to_whole_patches(prepared, small):
    teacher, inputs, samples = prepared(["blocks.1"])
    (found,) = teacher.start(teacher.normalize(inputs, samples), samples)()["blocks.1"]
    pixels = torch.stack(small.raw("detection")["inputs"]).flip(1).float()  # red first
    images = torch.nn.functional.interpolate(pixels, size=(70, 98), mode="bilinear", antialias=True) / 127.5 - 1
    network = make_transformer().eval()
    with torch.no_grad():
        tokens = network.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([network.class_token.expand(2, -1, -1), tokens], 1)
        expected = network.blocks[1](network.blocks[0](tokens))[:, 1:]
    assert found.shape == (2, 16, 5, 7)
    for row in range(5):
        for column in range(7):
            place = expected[:, row * 7 + column]
            torch.testing.assert_close(found[:, :, row, column], place, rtol=1e-3, atol=1e-3)


def test_a_token_is_where_its_patch_is(prepared):
    teacher, _, _ = prepared(["patch_embed", "blocks.0"], image=(70, 98))
    images = torch.zeros(1, 3, 70, 98)
    before = teacher.extract(images, None, ["patch_embed"])["patch_embed"][0]
    images[:, :, 28:42, 56:70] = 1.0
    after = teacher.extract(images, None, ["patch_embed"])["patch_embed"][0]
    assert (before != after).any(1).nonzero().tolist() == [[0, 2, 4]]  # a map is taken as it is
    teacher.model.blocks[0] = torch.nn.Identity()
    (tokens,) = teacher.extract(images, None, ["blocks.0"])["blocks.0"]
    assert torch.equal(tokens, after)


def test_images_of_one_size_of_its_own(prepared):
    teacher, inputs, samples = prepared(["blocks.1"], image=(42, 28), size=(28, 42))
    assert teacher.extract(inputs, samples, ["blocks.1"])["blocks.1"][0].shape == (2, 16, 2, 3)


def test_it_is_frozen_in_eval_mode_and_draws_nothing_from_the_trainings_random_numbers():
    torch.manual_seed(7)
    expected = torch.rand(())
    torch.manual_seed(7)
    teacher = build_teacher(TOKENS)
    model = teacher.model
    assert torch.equal(torch.rand(()), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert teacher.hash == hash_weights(make_transformer().state_dict())
    assert teacher.hash != build_teacher(dict(TOKENS, options=dict(seed=1))).hash
    (one,), (two,) = (teacher.extract(torch.ones(1, 3, 28, 28), None, ["norm"])["norm"] for _ in range(2))
    assert torch.equal(one, two)  # no dropout
    teacher.extract(torch.ones(1, 3, 28, 28), None, ["head"])
    assert not model.head.training


def test_a_network_without_parameters_moves_with_the_model_that_holds_it():
    teacher = build_teacher(dict(TOY, module="torch.nn:AvgPool2d", options=dict(kernel_size=2)))
    assert not list(teacher.model.parameters())
    teacher.apply(lambda tensor: tensor.double())


def test_a_sequence_runs_as_it_is():
    teacher = build_teacher(dict(TOY, module="toy_transformer:make_convolutions", channels_last=True))
    assert teacher.extract(torch.ones(1, 3, 32, 64), None, ["2"])["2"][0].shape == (1, 8, 4, 8)
    assert {key.split(".")[0] for key in teacher.model.state_dict()} == {"0", "1"}


def test_weights_come_from_a_checkpoint_and_must_fit(tmp_path):
    path = tmp_path / "toy.pth"
    torch.save(dict(model=make_transformer(seed=3).state_dict()), path)
    teacher = build_teacher(dict(TOKENS, checkpoint=str(path)))
    assert teacher.hash == hash_weights(make_transformer(seed=3).state_dict())
    with pytest.raises(CheckpointError, match=r"toy.pth is not of this architecture \(ToyTransformer\)"):
        build_teacher(dict(TOKENS, checkpoint=str(path), options=dict(width=8))).model
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        build_teacher(dict(TOKENS, checkpoint="nowhere.pth")).model


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_student_learns_from_it(distill, small, task):
    model = distill(task, teacher=TOKENS, terms=dict(loss_tokens=term())).train()
    model.rehearse()
    data = model.data_preprocessor(small.raw(task), True)
    losses = model(**data, mode="loss")
    losses["distill.loss_tokens"].backward()
    assert float(model.student.backbone.conv1.weight.grad.norm()) > 0
    assert float(model.distiller.loss_tokens.align.layers[0].weight.grad.norm()) > 0
    assert not any("teacher" in key or "blocks" in key for key in model.state_dict())
    assert set(model.identity()) == {"model.teacher"}


def test_its_maps_are_cached_and_the_cache_is_for_its_tokens_and_size(distill, photos, step, tmp_path):
    def make(**changes):
        cache = dict(dir=str(tmp_path / "cache"), views=2)
        return distill(
            "detection", teacher=dict(TOKENS, cache=cache, **changes), terms=dict(loss_tokens=term())
        ).train()

    model, views = make(), photos("detection")
    assert isinstance(model.teacher, CachedTeacher)
    batch = step.batch(model, views, (0, 0), (1, 1))
    first = step.losses(model, batch)["distill.loss_tokens"]
    calls = []
    model.teacher.model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert torch.equal(step.losses(model, batch)["distill.loss_tokens"], first)
    assert calls == []
    model.teacher = model.teacher.teacher
    torch.testing.assert_close(step.losses(model, batch)["distill.loss_tokens"], first, rtol=2e-3, atol=1e-6)
    assert calls
    for changes in (dict(size=(70, 98)), dict(mean=[0.0] * 3), dict(options=dict(seed=1))):
        with pytest.raises(CheckpointError, match="was made for something else: teacher"):
            step.losses(make(**changes), batch)


def test_images_of_several_sizes_in_one_batch_are_padded_its_way(distill, small):
    model = distill("detection", teacher=TOKENS, terms=dict(loss_tokens=term())).train()
    data = model.data_preprocessor(small.raw("detection", ((64, 96), (50, 60))), True)
    model.prepare()
    images = model.teacher.normalize(data["inputs"], data["data_samples"])
    assert (images[1, :, 50:] == 0).all()
    assert (images[1, :, :50, :60] != 0).all(0).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(module="toy_transformer.make"), "teacher.module must be 'package.module:function', got"),
        (dict(module="no_such_package:make"), "'no_such_package:make' cannot be imported .* set PYTHONPATH"),
        (
            dict(module="toy_transformer:make_transfomer"),
            "has no function 'make_transfomer'; did you mean 'make_transformer'",
        ),
        (dict(module="toy_transformer:make_nothing"), "must return a torch.nn.Module, got 3"),
        (dict(options=dict(deep=3)), "teacher.module 'toy_transformer:make_transformer': TypeError: .*'deep'"),
        (dict(options=3), "teacher.options must be a dict"),
        (dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]), "in units of pixel values, 0 to 255"),
        (dict(mean=[1.0]), "must be as many numbers"),
        (dict(std=[0.0, 1.0, 1.0]), "teacher.std must hold numbers above 0"),
        (dict(std="127"), "teacher.std must be a list of numbers"),
        (dict(tokens=16), "teacher.tokens must be dict"),
        (dict(tokens=dict(patch=0)), "teacher.tokens.patch must be at least 1"),
        (dict(size=(224, 220)), "teacher.size must hold multiples of 14"),
        (dict(size=224), "teacher.size must be a list of height and width"),
        (dict(checkpoint=""), "teacher.checkpoint must be a file"),
        (dict(config="mmdet::x"), r"teacher must be dict\(module=..., mean=..., std=...\) with optional"),
        (dict(fuse_norm=True), "teacher must be dict.*got the keys.*'fuse_norm'"),
        (dict(tokens=dict(patch=14)), r"must give 0 \+ 5x7 tokens of images 70x98 .*got 36"),
        (dict(tokens=None, divisor=14), "must give maps .* say so: .*tokens=dict"),
        (dict(divisor=10, tokens=None), "fails on images .*sides must be multiples of 14"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(prepared, changes, words):
    def run():
        teacher, inputs, _ = prepared(["blocks.1"], **changes)
        teacher.extract(inputs, None, ["blocks.1"])

    with pytest.raises(ValueError, match=words) as caught:
        run()
    assert "\n" not in str(caught.value)


def test_a_wrong_path_names_the_nearest(distill):
    with pytest.raises(ValueError, match=r"terms.loss_tokens.teacher_tap: no module 'block.1'.*'blocks.1'"):
        distill("detection", teacher=TOKENS, terms=dict(loss_tokens=term(teacher_tap="block.1"))).prepare()


def test_the_page_names_every_argument(request):
    text = (request.config.rootpath / "docs" / "teachers.md").read_text()
    table = text[text.index("| key | says |") : text.index("The network gets")]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert named == {*inspect.signature(ModuleTeacher).parameters, "cache"}


def test_it_trains_no_prompts():
    prompts = dict(channels=16, num_levels=1)
    with pytest.raises(ValueError, match=r"teacher must be dict\(config=.*take a method without prompts"):
        PromptTuner(teacher=TOKENS, prompts=prompts, tap="blocks.1")
