"""Terms of a distillation, chosen for a pair of networks by what their modules return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from freqkd.adapters.dense import class_maps
from freqkd.adapters.heads import HeadKind, describe_head
from freqkd.models.tap_shapes import MapShape
from freqkd.pairs.matching import SMALL, Match, Shapes, describe_maps, match_features, match_taps
from freqkd.pairs.methods import DISTRIBUTIONS, SCORES, Method, Options, find_method, score_loss
from freqkd.pairs.networks import Network, image_size, one_image, run_once
from freqkd.pairs.sizes import Size, in_words, training_size

INHERITABLE = ("neck", "rpn_head", "bbox_head", "roi_head", "decode_head")
SCORE_RATIO = 0.5  # of the samples' terms on class scores and distributions
ITERATIONS = 50  # over which ratios are measured


@dataclass
class Term:
    """A term of the config: its options, and the reason for each that has one.

    Attributes:
        name: its name in the config.
        method: what it is, in words.
        options: the arguments of `DistillTerm`.
        reasons: by option.
        prompts: arguments of the `PromptTuner` of its first stage; None without one.
    """

    name: str
    method: str
    options: Options
    reasons: dict[str, str] = field(default_factory=dict)
    prompts: Options | None = None


@dataclass
class Pair:
    """A student and a teacher, and what their modules return for one image.

    Attributes:
        student: the student network.
        teacher: the teacher network.
        student_shapes: shapes and strides of what the student's modules return.
        teacher_shapes: the same of the teacher's.
        size: height and width of the images of the training, None where the student's pipeline does not state them.
    """

    student: Network
    teacher: Network
    student_shapes: Shapes
    teacher_shapes: Shapes
    size: Size | None = None

    @property
    def inheritable(self) -> tuple[str, ...]:
        """Parts whose weights have the same names and shapes in both networks."""
        return tuple(name for name in INHERITABLE if _fits(self.student.model, self.teacher.model, name))


def _fits(student: Any, teacher: Any, name: str) -> bool:
    parts = [getattr(model, name, None) for model in (student, teacher)]
    if not all(isinstance(part, nn.Module) for part in parts):
        return False
    own, other = ({key: value.shape for key, value in part.state_dict().items()} for part in parts)  # type: ignore[union-attr]
    return bool(own) and own == other


def run_pair(student: Network, teacher: Network, size: Size | None = None) -> Pair:
    """Run one image through both networks.

    Args:
        student: the student network.
        teacher: the teacher network.
        size: height and width of the images of the training; None: those of the student's config.

    Raises:
        ValueError: they are of different tasks, or do not run on the image.
    """
    if student.task != teacher.task:
        raise ValueError(
            f"student and teacher must do the same task, got {student.name} of {student.scope} and {teacher.name} of "
            f"{teacher.scope}; name two networks of one package"
        )
    shown = image_size(student.config)
    inputs, samples = one_image(student, shown)
    _, others = one_image(teacher, shown)
    shapes = [run_once(student, inputs, samples), run_once(teacher, inputs, others)]
    mine, theirs = (
        {path: [one for call in calls for one in call] for path, calls in found.items()} for found in shapes
    )
    return Pair(student, teacher, mine, theirs, size or training_size(student.config))


def choose_term(pair: Pair, name: str) -> Term:
    """Return the term of a method for a pair.

    Args:
        pair: both networks, which were run.
        name: the method's name.

    Raises:
        ValueError: it does not fit the pair; the message says what both sides have, and the nearest that would work.
    """
    method = find_method(name)
    key = f"loss_{name.replace('-', '_')}"
    if DISTRIBUTIONS in method.places:
        return _distribution_term(pair, key, name, method)
    if method.places == (SCORES,):
        return _score_term(pair, key, name, method)
    if SCORES in method.places and pair.student.family.adapter == pair.teacher.family.adapter == "SegLogits":
        return _score_term(pair, key, name, method)
    return _feature_term(pair, key, method)


def _feature_term(pair: Pair, key: str, method: Method) -> Term:
    found = match_features(pair.student, pair.student_shapes, pair.teacher, pair.teacher_shapes)
    match = found if pair.size is None else found.without_small(pair.size)
    if method.adapter == "GroundTruthBoxes" and pair.student.task != "detection":
        raise ValueError(
            f"--method {key.removeprefix('loss_')} must have boxes, and {pair.student.name} is a segmenter; use details"
        )
    term = Term(key, method.words, _taps(match))
    term.reasons["student_tap"] = (
        f"student: {describe_maps(match.student_maps)}; teacher: {describe_maps(match.teacher_maps)}"
    )
    reasons = []
    if found.student_levels is not None or found.teacher_levels is not None:
        reasons.append("the maps of either network that have a partner of the same stride")
    if match is not found and pair.size is not None:
        reasons.append(
            f"without maps of {SMALL} positions or fewer along a side in images of {in_words(pair.size)}, which teach nothing"
        )
    if reasons:
        term.reasons["student_levels"] = ", ".join(reasons)
    _add_align(term, match, method)
    if method.adapter:
        term.options["adapter"] = dict(type=f"freqkd.{method.adapter}")
    widths = dict(channels=_short(match.teacher_channels), num_levels=len(match.teacher_maps))
    if method.prompts:
        term.options["prompts"] = "{prompts}"
        term.prompts = dict(prompts=widths, tap=match.teacher_tap)
        if match.teacher_levels is not None:
            term.prompts["levels"] = match.teacher_levels
    term.options["loss"] = {**method.loss, **(widths if method.widths else {})}
    ratio = method.ratios.get(pair.student.task, 1.0)
    term.options["weight"] = dict(ratio=ratio, iters=ITERATIONS)
    term.reasons["weight"] = _weight(ratio, "tap")
    return term


def _add_align(term: Term, match: Match, method: Method) -> None:
    own, other = match.student_channels, match.teacher_channels
    resize = {} if match.resize is None else dict(resize=match.resize)
    if not method.aligned and not resize:
        term.reasons["loss"] = "this loss takes maps of any channels: no align"
    elif own != other and (method.aligned or resize):
        term.options["align"] = dict(
            type="freqkd.ConvAlign",
            student_channels=_short(own),
            teacher_channels=_short(other),
            num_levels=len(own),
            **resize,
        )
        term.reasons["align"] = "the channels differ: a 1x1 convolution, trained beside the student"
    elif resize:
        term.options["align"] = dict(type="freqkd.ResizeAlign", **resize)
    else:
        term.reasons["loss"] = "channels and sizes are equal: no align"
    if resize:
        term.reasons["align"] = f"the strides differ: the teacher's map is brought to the size of the {match.resize}'s"


def _weight(ratio: float, where: str) -> str:
    """Return what a ratio weight means.

    >>> _weight(8.0, "tap")
    "the term's gradient at the tap is 8 times the task's: the first thing to tune"
    """
    return f"the term's gradient at the {where} is {ratio:g} times the task's: the first thing to tune"


def _short(widths: Sequence[int]) -> int | list[int]:
    """Return one number where all are equal.

    >>> _short([256, 256]), _short([64, 128])
    (256, [64, 128])
    """
    return widths[0] if len(set(widths)) == 1 else list(widths)


def _taps(match: Match, stated: bool = False) -> Options:
    """Return taps and levels of a term; levels are stated where some are left out, or where a whole head returns boxes, too."""
    options: Options = dict(student_tap=match.student_tap)
    if match.teacher_tap != match.student_tap:
        options["teacher_tap"] = match.teacher_tap
    if match.student_levels is match.teacher_levels is None and not stated:
        return options
    own = match.student_levels or tuple(range(len(match.student_maps)))
    other = match.teacher_levels or tuple(range(len(match.teacher_maps)))
    options["student_levels"] = own
    if own != other:
        options["teacher_levels"] = other
    return options


def _score_term(pair: Pair, key: str, name: str, method: Method) -> Term:
    adapter = pair.student.family.adapter
    kinds = [_kind(network) for network in (pair.student, pair.teacher)]
    own, other = kinds
    if own is None or other is None or adapter != pair.teacher.family.adapter:
        raise ValueError(_unfit(pair, name, kinds, "scores that an adapter can compare in both networks"))
    if own.channels != other.channels or own.activation != other.activation:
        raise ValueError(_unfit(pair, name, kinds, "the same classes in both networks"))
    if own.anchors != other.anchors:
        raise ValueError(_unfit(pair, name, kinds, "the same anchors in both networks"))
    options: Options = dict(student_tap="neck" if adapter == "YOLOXLogits" else pair.student.scores)
    if pair.teacher.scores != pair.student.scores:
        options["teacher_tap"] = pair.teacher.scores
    if adapter == "DenseLogits":
        match = match_taps(
            pair.student.scores, _class_maps(pair.student, pair.student_shapes),
            pair.teacher.scores, _class_maps(pair.teacher, pair.teacher_shapes),
        )  # fmt: skip
        if match is None:
            raise ValueError(_unfit(pair, name, kinds, "class maps of the same strides in both networks"))
        options = _taps(match, pair.student.family.per_level or pair.teacher.family.per_level)
    term = Term(key, method.words, options)
    term.options["adapter"] = _adapter(adapter, pair)
    term.reasons["adapter"] = (
        f"{pair.student.family.name}: {pair.student.family.note or 'class scores of every position'}"
    )
    term.options["loss"] = score_loss(name, own)
    if own.activation is not None and name != "cwd":
        term.reasons["loss"] = f"{own.name} has a {own.activation} over its classes"
    term.options["weight"] = dict(ratio=SCORE_RATIO, iters=ITERATIONS)
    term.reasons["weight"] = _weight(SCORE_RATIO, "tap")
    return term


def _class_maps(network: Network, shapes: Shapes) -> list[MapShape]:
    """Return the class maps of a network's scores; a whole head returns boxes, too, after one class map for each level."""
    maps = list(shapes.get(network.scores, ()))
    return list(class_maps(maps)) if network.family.per_level else maps


def _adapter(adapter: str, pair: Pair) -> Options:
    """Return an adapter's options; of a cascade the last stage is compared, of YOLOX the classes."""
    if adapter == "YOLOXLogits":
        return dict(type="freqkd.YOLOXLogits", part="classes")
    more: Options = {}
    for network in (pair.student, pair.teacher):
        head = network.model.roi_head.bbox_head if adapter == "ProposalLogits" else None
        if isinstance(head, nn.ModuleList):
            more[f"{network.owner}_stage"] = len(head) - 1
    return dict(type=f"freqkd.{adapter}", **more)


def _kind(network: Network) -> HeadKind | None:
    return describe_head(network.model, network.scores) if network.scores else None


def _unfit(pair: Pair, name: str, kinds: Sequence[HeadKind | None], rule: str) -> str:
    """Return the message for scores that cannot be compared: what both heads have, and what would work."""
    shown = []
    for network, kind, shapes in zip((pair.student, pair.teacher), kinds, (pair.student_shapes, pair.teacher_shapes)):
        sizes = [f"{'x'.join(map(str, one.shape))}" for one in shapes.get(network.scores, ())][:3]
        head = (
            "none"
            if kind is None
            else f"{kind.name}, {kind.layout if kind.anchors else f'{kind.channels} classes'}, {kind.activation}"
        )
        shown.append(
            f"the {network.owner} ({network.family.name}) has {head}" + (f", {' '.join(sizes)}" if sizes else "")
        )
    return f"--method {name} must have {rule}: {'; '.join(shown)}; {_works(pair)}"


def _works(pair: Pair) -> str:
    try:
        match = match_features(pair.student, pair.student_shapes, pair.teacher, pair.teacher_shapes)
    except ValueError:
        return "their feature maps do not fit either"
    return f"--method details works: it compares {match.student_tap!r} of the student with {match.teacher_tap!r} of the teacher"


def _distribution_term(pair: Pair, key: str, name: str, method: Method) -> Term:
    if not pair.student.family.name == pair.teacher.family.name == "GFL":
        raise ValueError(_unfit(pair, name, [_kind(pair.student), _kind(pair.teacher)], "GFL heads in both networks"))
    options = dict(student_tap="neck", adapter=dict(type=f"freqkd.{method.adapter}"), loss=dict(method.loss))
    options["weight"] = dict(ratio=SCORE_RATIO, iters=ITERATIONS)
    reasons = dict(
        student_tap="where the weight's gradients are measured; the adapter taps the head itself",
        weight=_weight(SCORE_RATIO, "neck"),
    )
    return Term(key, method.words, options, reasons)
