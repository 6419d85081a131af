"""Values of the training images for a condensed data set, and what a shrinking set needs of the Runner (KCD)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, master_only
from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.runner import BaseLoop, IterBasedTrainLoop
from PIL import Image as Photo
from torch import Tensor, nn

from freqkd.adapters.entropy import ImageEntropy
from freqkd.datasets.condensation import Stage, blend
from freqkd.datasets.condensed_sampler import CondensedSampler, find_condensed_sampler
from freqkd.models.distiller import Distiller
from freqkd.models.teacher_stage import TeacherStage
from freqkd.taps import FeatureTap, InputTap
from freqkd.teacher import CachedTeacher
from freqkd.utils.checkpoints import CheckpointError
from freqkd.utils.checks import check_at_least, check_whole
from freqkd.utils.processes import unwrapped
from freqkd.visualization.plotting import Image, condensation_panel

STATE = "condensation"  # key in a checkpoint
PICTURED = 6  # images of each kind in the picture of a stage


class CondensationHook(Hook):
    """Measure the value of every training image for a `freqkd.CondensedSampler`.

    The value is the mean entropy of the student's predictions on the image, in training mode and as augmented, over pixels,
    anchors or proposals; see `ImageEntropy` and `ImageValues`. The teacher plays no part. All processes get the values of
    all. Values and stages are saved in checkpoints; a resumed training continues with them.

    MMEngine fixes the number of iterations, and schedules by iteration, from the length of the first epoch. In an
    `EpochBasedTrainLoop`, where epochs become shorter, the hook sets the number of iterations to the sum over the epochs, and
    takes more steps of schedules that count iterations (`by_epoch=False`, `convert_to_iter_based=True`): at the end of each
    epoch they are where they would be without condensation. The schedules of terms count iterations as they come.

    Each stage is logged, with a picture of what it keeps; at the end the log says how many images were visited.

    Args:
        tap: path of the student's class predictor, e.g. "bbox_head.retina_cls", "decode_head.conv_seg".
        num_classes: C; None: as the head says.
        activation: of the head: "sigmoid" or "softmax"; None: as the head says.
        summary: strength of KCD's summary augmentation, 0.3 in the paper: the least valuable kept images are blended with those
            that the stage has dropped, see `Stage.summary`. 0: none. Boxes and label maps would then be of one image and the
            pixels of two, so it is for trainings without labels (`own_losses=False`), where student and teacher see the same
            blended images; and not for a cached teacher, whose maps are of other images. Blends are of the present stage
            only, and leave the files as they are; the released program blends its store of images for good.

    Raises:
        ValueError: an argument out of range, or one that does not fit the model; `summary` with labels or a cached teacher;
            before training, the sampler is missing, or images cannot be told apart by `img_path`.
        CheckpointError: on resume, the checkpoint has no values, or those of another data set or sampler.

    Config::

        custom_hooks = [dict(type='freqkd.CondensationHook', tap='bbox_head.retina_cls')]
    """

    priority = "LOW"  # before the hook that saves checkpoints

    def __init__(
        self, tap: str, num_classes: int | None = None, activation: str | None = None, summary: float = 0.0
    ) -> None:
        if not (isinstance(tap, str) and tap):
            raise ValueError(f"tap must be the path of a class predictor, e.g. 'bbox_head.retina_cls', got {tap!r}")
        if num_classes is not None:
            check_whole("num_classes", num_classes, 1)
        check_at_least("summary", summary, 0, most=1)
        self.tap, self.num_classes, self.activation, self.summary = tap, num_classes, activation, summary
        self._told = 1  # stages that the log has, the first one counted
        self._batch: tuple[Any, Any, Any] = ((), (), ())  # paths and sizes of a batch's images, and its own size

    def check_model(self, model: nn.Module) -> ImageEntropy:
        """Check that the arguments fit a model; return what measures its images.

        Raises:
            ValueError: they do not.
        """
        if isinstance(model, TeacherStage):
            raise ValueError(
                f"custom_hooks must not have a freqkd.CondensationHook in a first stage, got {type(model).__name__}, which "
                "has no student; leave hook and sampler to the distillation"
            )
        if self.summary and isinstance(getattr(model, "teacher", None), CachedTeacher):
            raise ValueError(
                f"summary must be 0 with a cached teacher, whose maps are of images that are not blended, got {self.summary}; "
                "leave out teacher.cache or summary"
            )
        if self.summary and not (isinstance(model, Distiller) and not model.own_losses):
            raise ValueError(
                f"summary must be 0 in a training with labels, which would be of one of two blended images, got "
                f"{self.summary}; leave it out, or train by the terms alone: own_losses=False"
            )
        if isinstance(model, Distiller) and not model.own_losses:
            tapped = {path for term in model.terms.values() for path in term.student_paths}
            if self.tap not in tapped:
                raise ValueError(
                    "tap must be a student_tap of a term with own_losses=False, where the student runs as far as it is "
                    f"tapped, got {self.tap!r}; the terms tap {', '.join(map(repr, sorted(tapped)))}"
                )
        return ImageEntropy(_student(model), self.tap, self.num_classes, self.activation)

    # ---- a run ------------------------------------------------------------------------------------------------------

    def before_run(self, runner: Any) -> None:
        """Divide the training into stages, and set its number of iterations."""
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):
            return  # a test
        sampler = _sampler(loop)
        self._entropy = self.check_model(unwrapped(runner.model))
        self._index = _indices_by_path(sampler.dataset)
        self._plain_length = len(loop.dataloader)
        if isinstance(loop, IterBasedTrainLoop):
            warning = sampler.plan(None, loop.max_iters * _batch_size(loop.dataloader) * runner.world_size)
        else:
            warning = sampler.plan(loop.max_epochs)
            loop._max_iters = sum(_lengths(loop))
        if warning:
            runner.logger.warning(warning)

    def before_train(self, runner: Any) -> None:
        """Count the stages of a resumed training as told."""
        self._told = len(_sampler(runner.train_loop).found)

    def before_train_epoch(self, runner: Any) -> None:
        """Choose the images of the epoch."""
        sampler = _sampler(runner.train_loop)
        if not sampler.endless:
            sampler.set_epoch(runner.epoch)
            sampler.stage(sampler.stage_of(runner.epoch))
            self._tell(runner, sampler)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Blend images, where that is asked for, and watch the student's class predictor."""
        sampler, network = _sampler(runner.train_loop), unwrapped(runner.model)
        if sampler.endless:  # whose stages begin with a batch
            self._tell(runner, sampler)
        if self.summary:
            self._blend(sampler, data_batch)
        self._watching, self._batch = ExitStack(), ((), (), ())
        student = _student(network)
        self._maps = self._watching.enter_context(FeatureTap(student, [self.tap]))
        if self._entropy.rois:
            self._calls = self._watching.enter_context(InputTap(student, [self._entropy.rois]))
        noted = network.data_preprocessor.register_forward_hook(lambda module, inputs, output: self._note(output))
        self._watching.callback(noted.remove)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add the values of the batch, in all processes, and bring schedules by iteration to their place in the epoch."""
        sampler = _sampler(runner.train_loop)
        self._watching.close()
        for found in all_gather_object(self._measure()):
            sampler.values.update(found)
        self._maps.clear()
        runner.message_hub.update_scalar("train/kept_images", len(sampler.found[-1].kept))
        if not sampler.endless:
            length, done = len(runner.train_loop.dataloader), batch_idx + 1
            steps = done * self._plain_length // length - batch_idx * self._plain_length // length
            for _ in range(steps - 1):
                ParamSchedulerHook().after_train_iter(runner, batch_idx)

    def after_train(self, runner: Any) -> None:
        """Log how many images were visited."""
        loop = runner.train_loop
        sampler = _sampler(loop)
        visits, images = int(sampler.values.seen.sum()), len(sampler.dataset)
        text = f"Condensation: {visits} images were visited in {runner.iter} iterations"
        if not sampler.endless:
            plain = runner.epoch * -(-images // runner.world_size) * runner.world_size
            text += f", {plain - visits} fewer than the {plain} of all {images} in {runner.epoch} epochs"
        runner.logger.info(f"{text}; {len(sampler.found[-1].kept)} of {images} are kept at the end")

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add values and stages."""
        checkpoint[STATE] = _sampler(runner.train_loop).state_dict()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Take on values and stages of the training that is resumed."""
        if not getattr(runner, "_resume", False):
            return
        if STATE not in checkpoint:
            raise CheckpointError(
                "cannot resume: the checkpoint has no values of images, so its training had no freqkd.CondensationHook; "
                "resume it without the hook, or start from it: load_from in place of resume"
            )
        _sampler(runner.train_loop).load_state_dict(checkpoint[STATE])

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _note(self, output: Mapping[str, Any]) -> None:
        """Keep which images a batch has, their sizes, and that of the batch."""
        if not self._batch[0]:
            sizes = [tuple(sample.metainfo["img_shape"][:2]) for sample in output["data_samples"]]
            paths = [sample.metainfo.get("img_path") for sample in output["data_samples"]]
            self._batch = (paths, sizes, tuple(output["inputs"].shape[-2:]))

    def _measure(self) -> list[tuple[int, float]]:
        """Return the index and the entropy of each image of this process, where it is finite."""
        paths, sizes, padded = self._batch
        rois = None
        if self._entropy.rois:
            calls = self._calls[self._entropy.rois]
            if not calls:
                return []
            rois = calls[0][1]
        values = self._entropy(self._maps.maps(self.tap), sizes, padded, rois).tolist()
        lost = [path for path in paths if path not in self._index]
        if lost:
            raise ValueError(
                "the pipeline of train_dataloader must keep img_path in the metainfo of its samples, as the data set has it: "
                f"CondensationHook knows images by it, got {lost[0]!r}; add 'img_path' to meta_keys of its last transform"
            )
        pairs = zip((self._index[path] for path in paths), values, strict=True)
        return [(index, value) for index, value in pairs if math.isfinite(value)]

    def _blend(self, sampler: CondensedSampler, batch: Any) -> None:
        """Blend those images of a batch that are in the summary with their partners, as the data set gives them."""
        partners = sampler.found[-1].summary(self.summary)
        for place, sample in enumerate(batch["data_samples"]):
            other, rate = partners.get(self._index.get(sample.metainfo.get("img_path"), -1), (0, 1.0))
            if rate < 1:
                batch["inputs"][place] = blend(batch["inputs"][place], sampler.dataset[other]["inputs"], rate)  # type: ignore[index]

    def _tell(self, runner: Any, sampler: CondensedSampler) -> None:
        """Log the stages that have begun, with a picture of the last one."""
        if self._told == len(sampler.found):
            return
        self._told = len(sampler.found)
        number, stage = self._told - 1, sampler.found[-1]
        text = f"stage {number} of {sampler.stages}, {len(stage.kept)} of {len(sampler.dataset)} images are kept"
        where = f"iteration {runner.iter + 1}" if sampler.endless else f"epoch {runner.epoch + 1}"
        runner.logger.info(f"Condensation: {text} from {where} on")
        self._draw(runner, sampler, stage, f"Condensation: {text}")

    @master_only
    def _draw(self, runner: Any, sampler: CondensedSampler, stage: Stage, title: str) -> None:
        order = sampler.values.scores(sampler.alpha).argsort(descending=True, stable=True)
        left = order[len(stage.kept) :]
        rows = {
            "most valuable": stage.kept[:PICTURED],
            "least valuable of the kept": stage.kept[PICTURED:][-PICTURED:],
            "left out": left[:PICTURED],
        }
        pictures = {name: _photos(sampler, chosen) for name, chosen in rows.items()}
        panel = condensation_panel(sampler.values.mean[order].numpy(), len(stage.kept), pictures, title)
        runner.visualizer.add_image("condensation", panel, step=runner.iter)


def _student(model: Any) -> nn.Module:
    student: nn.Module = model.student if isinstance(model, Distiller) else model
    return student


def _sampler(loop: Any) -> CondensedSampler:
    sampler = find_condensed_sampler(loop.dataloader)
    if sampler is None:
        raise ValueError(
            "train_dataloader.sampler must be a freqkd.CondensedSampler beside a freqkd.CondensationHook, got another one; "
            "set it to dict(_delete_=True, type='freqkd.CondensedSampler'), or leave out the hook"
        )
    return sampler


def _batch_size(loader: Any) -> int:
    return int(loader.batch_size or loader.batch_sampler.batch_size)


def _lengths(loop: Any) -> list[int]:
    """Return the number of batches of each epoch."""
    sampler, lengths = _sampler(loop), []
    for epoch in range(loop.max_epochs):
        sampler.set_epoch(epoch)
        lengths.append(len(loop.dataloader))
    sampler.set_epoch(0)
    return lengths


def _indices_by_path(dataset: Any) -> dict[str, int]:
    """Return the index of each image of a data set by its path.

    Raises:
        ValueError: the data set does not tell paths, or has an image twice.
    """
    if not hasattr(dataset, "get_data_info"):
        raise ValueError(
            "train_dataloader.dataset must tell the path of each image, get_data_info(index)['img_path'], for a "
            f"CondensedSampler, got {type(dataset).__name__}, which does not; take a data set of mmdet or mmseg"
        )
    found: dict[str, int] = {}
    for index in range(len(dataset)):
        path = dataset.get_data_info(index).get("img_path")
        if path in found or path is None:
            raise ValueError(
                f"train_dataloader.dataset must have each image once, by its img_path, for a CondensedSampler, got {path!r} "
                f"at index {index}{f' and {found[path]}' if path in found else ''}; leave out wrappers that repeat images"
            )
        found[path] = index
    return found


def _photos(sampler: CondensedSampler, chosen: Tensor) -> Sequence[tuple[str, Image]]:
    """Return images with their values; files that Pillow cannot read are left out."""
    photos = []
    for index in chosen.tolist():
        path = sampler.dataset.get_data_info(index)["img_path"]  # type: ignore[attr-defined]
        value, seen = float(sampler.values.mean[index]), int(sampler.values.seen[index])
        try:
            with Photo.open(path) as photo:
                photos.append((f"{value:.4g}, seen {seen} times", np.asarray(photo.convert("RGB"))))
        except (OSError, ValueError):
            continue
    return photos
