"""Band head stage of DS2D2: a second head on the details of a frozen teacher's maps, trained by the teacher's own task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from freqkd.adapters.band_head import DEPTH_KEY, find_bbox_head
from freqkd.losses.freekd.wavelets import DEEPEST, without_low
from freqkd.models.teacher_stage import TeacherStage
from freqkd.teacher import CachedTeacher, Teacher
from freqkd.utils.checks import check_whole


class BandHeadTuner(TeacherStage):
    """A frozen teacher with a second `bbox_head`, which sees the details of its maps alone, and is all that is trained.

    The head starts from the weights of the teacher's own. loss = the teacher's task loss on the predictions of the
    second head; in `predict` mode this is the teacher with that head. Any of its checkpoints is the `head` of the adapter
    `BandHead`.

    Args:
        teacher: `dict(config=..., checkpoint=...)`, see `Teacher`: a detector with a dense `bbox_head`. With a cache, training
            reads the tapped maps and runs the head alone.
        depth: levels of the Haar transform whose details the head sees, see `without_low`.
        tap: path in the teacher of what gives the head its maps.

    Raises:
        ValueError: the tap does not exist, or the teacher has no `bbox_head`.
        CheckpointError: the teacher cannot be loaded, on `init_weights` or the first batch.

    References:
        DS2D2, arXiv 2512.04413, whose "amplifier" this is. Differs from its program, which hands the head the sum of the three
        orientations, resized: opposite signs cancel there, and the map is not that of the details.

    Config::

        model = dict(type='freqkd.BandHeadTuner', teacher=dict(config='...', checkpoint='...'), depth=1)
    """

    edited = "the details of the maps"

    def __init__(
        self,
        teacher: Teacher | CachedTeacher | Mapping[str, Any],
        depth: int = 1,
        tap: str = "neck",
        data_preprocessor: Any = None,
    ) -> None:
        check_whole("depth", depth, 1, most=DEEPEST)
        super().__init__(teacher, tap)
        # The optimizer is made before the weights are there.
        self.band_head = find_bbox_head(self.teacher.make_network())
        self.register_buffer(DEPTH_KEY, torch.tensor(depth))
        self.depth = depth

    def init_weights(self) -> None:
        """Bring in the teacher, and start from its head."""
        self.prepare()
        self.band_head.load_state_dict(find_bbox_head(self.teacher.model).state_dict())

    def edit(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the details of the maps."""
        return [without_low(feature, self.depth) for feature in maps]

    @contextmanager
    def replaced_parts(self, network: Any) -> Iterator[None]:
        """Let the teacher use the second head, whose mode is its own."""
        own = network.bbox_head
        network.bbox_head = self.band_head
        try:
            yield
        finally:
            network.bbox_head = own
