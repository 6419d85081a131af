"""First stage of a method: a frozen teacher, part of which is trained on its own task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from freqkd.models.rehearsal import first_iteration, part_of_rehearsal, take_image
from freqkd.models.tap_shapes import MapShape, map_shape
from freqkd.taps import FeatureEdit, FeatureTap, find_tap
from freqkd.teacher import CachedTeacher, Teacher, build_teacher
from freqkd.teacher.teacher import blank_image, rehearsal

_PLACEHOLDER = dict(type="BaseDataPreprocessor")


class TeacherStage(BaseModel):
    """A frozen teacher whose tapped maps are edited on their way to its heads; what a subclass adds is trained.

    The teacher is held, not owned: it is in no state dict. In `predict` mode this is the teacher with edited maps. A subclass
    defines `edit`, and what it trains as its own modules.

    Args:
        teacher: `dict(config=..., checkpoint=...)`, see `Teacher`. With a cache, training reads the tapped maps and runs the
            heads alone; the tap must then be the whole neck, or the backbone of a teacher without one.
        tap: path of the tapped module in the teacher.

    Raises:
        ValueError: the tap does not exist, or is not all that the heads take and the teacher has a cache.
        CheckpointError: the teacher cannot be loaded, on `init_weights` or the first batch.
    """

    edited: str = "the edited maps"  # what `edit` makes, for messages

    def __init__(self, teacher: Teacher | CachedTeacher | Mapping[str, Any], tap: str = "neck") -> None:
        super().__init__(data_preprocessor=_PLACEHOLDER)
        if not (isinstance(tap, str) and tap):
            raise ValueError(f"tap must be the path of a module, e.g. 'neck', got {tap!r}")
        self.teacher = build_teacher(teacher, with_losses=True)
        self.tap = tap
        self.levels: tuple[int, ...] | None = None  # of the tapped maps, all
        self._prepared = False

    def edit(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return what the heads take in place of the tapped maps, as many and of the same shapes."""
        raise NotImplementedError

    @property
    def data_preprocessor(self) -> nn.Module:
        """The teacher's preprocessor; the teacher is built when someone first asks for it."""
        self.prepare()
        return cast(nn.Module, self.teacher.model.data_preprocessor)

    def _apply(self, fn: Any, recurse: bool = True) -> TeacherStage:
        self.teacher.apply(fn)
        return super()._apply(fn, recurse)

    def init_weights(self) -> None:
        """Bring in the teacher; the weights of what is trained were drawn when it was made."""
        self.prepare()

    def prepare(self) -> None:
        """Build the teacher, once."""
        if self._prepared:
            return
        self.teacher.to(self._device)
        try:
            find_tap(self.teacher.model, self.tap)
        except ValueError as error:
            raise ValueError(f"tap: {error}") from None
        self.teacher.prepare([self.tap], self.teacher.model.data_preprocessor)
        if isinstance(self.teacher, CachedTeacher):
            self._check_cache()
        self._prepared = True

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _check_cache(self) -> None:
        """Check that what the heads take is what the tap gives, so that cached maps can stand for the whole way to them."""
        model = self.teacher.model
        last = "neck" if getattr(model, "with_neck", False) else "backbone"
        if self.tap == last and hasattr(model, "extract_feat"):
            with torch.no_grad(), rehearsal(), FeatureTap(model, [self.tap]) as tap:
                taken = model.extract_feat(blank_image(model))
                maps = tap.maps(self.tap)
            if isinstance(taken, (tuple, list)) and list(map(id, taken)) == list(map(id, maps)):
                return
        raise ValueError(
            f"tap must be {last!r}, all that the heads of {type(model).__name__} take, where teacher.cache is set, got "
            f"{self.tap!r}; leave out the cache in this stage"
        )

    def identity(self) -> dict[str, str]:
        """Return the hash of what a resumed training must find unchanged: the teacher."""
        self.prepare()
        return {"model.teacher": self.teacher.hash}

    def rehearse(
        self, sample: Mapping[str, Any] | None = None, size: tuple[int, int] = (64, 96)
    ) -> dict[str, dict[str, list[MapShape]]]:
        """Run the tapped part once on one image: raises what the first iteration would.

        Args:
            sample: what the pipeline of the training data gives for an image; None: a blank image.
            size: height and width of the blank image.

        Returns:
            The shapes of what was tapped in the "teacher", by path.

        Raises:
            ValueError: the tapped maps do not fit what is trained.
            RehearsalError: a part fails for a reason that no check foresaw.
        """
        self.prepare()
        with torch.no_grad(), rehearsal(), first_iteration():
            image = take_image(self.teacher.model, sample, size)
            with part_of_rehearsal("the teacher", image):
                maps = self.teacher.extract(image.inputs, image.samples, [self.tap])[self.tap]
            with part_of_rehearsal(self.edited, image):
                self.edit(maps)
        return {"teacher": {self.tap: [map_shape(one, image.inputs.shape) for one in maps]}}

    def replaced_parts(self, network: Any) -> AbstractContextManager[None]:
        """Return a context in which parts of the teacher are replaced by trained ones; by default, none."""
        return nullcontext()

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Run the teacher with edited maps; in `loss` mode, return its own losses."""
        self.prepare()
        if mode != "loss":
            network = self.teacher.model.eval()
            with self.replaced_parts(network), FeatureEdit(network, self.tap, self.edit):
                return network(inputs, data_samples, mode=mode)
        with self.teacher.computing_losses() as network, self.replaced_parts(network):
            if isinstance(self.teacher, CachedTeacher):
                maps = self.teacher.start(inputs, data_samples)()[self.tap]
                with _extracting(network, tuple(self.edit(maps))):
                    return dict(network(inputs, data_samples, mode=mode))
            with FeatureEdit(network, self.tap, self.edit):
                return dict(network(inputs, data_samples, mode=mode))


@contextmanager
def _extracting(model: Any, maps: tuple[Tensor, ...]) -> Iterator[None]:
    """Let a network's heads take these maps: backbone and neck do not run."""
    model.extract_feat = lambda *args, **kwargs: maps
    try:
        yield
    finally:
        del model.extract_feat
