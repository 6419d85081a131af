"""Matching of two networks' maps by their sizes in one image, which are their strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from freqkd.models.tap_shapes import MapShape
from freqkd.pairs.networks import Network

Shapes = Mapping[str, Sequence[MapShape]]
BACKBONE = "backbone"
FURTHEST = 2  # times: maps whose sizes differ by more are not resized to each other
SMALL = 4  # positions along the shorter side up to which `FrequencyPrompt.check_size` calls a map too small for depth=3


@dataclass(frozen=True)
class Match:
    """Maps of student and teacher that a term compares.

    Attributes:
        student_tap: path in the student.
        teacher_tap: path in the teacher.
        student_levels: indices of the student's maps; None: all.
        teacher_levels: indices of the teacher's maps; None: all.
        student_maps: shapes and strides of these maps.
        teacher_maps: the same of the teacher's.
        resize: whose size both end with, "student" or "teacher"; None where the sizes are equal.
    """

    student_tap: str
    teacher_tap: str
    student_levels: tuple[int, ...] | None
    teacher_levels: tuple[int, ...] | None
    student_maps: tuple[MapShape, ...]
    teacher_maps: tuple[MapShape, ...]
    resize: str | None = None

    def without_small(self, size: tuple[int, int]) -> Match:
        """Return the match without the maps that are small in images of a height and width; as it is where all are.

        >>> maps = tuple(MapShape((1, 8, 256 // stride, 256 // stride), stride) for stride in (32, 64, 128))
        >>> Match("neck", "neck", None, None, maps, maps).without_small((240, 320)).student_levels
        (0,)
        """
        large = [
            place
            for place, one in enumerate(self.student_maps)
            if one.stride is None or -(-min(size) // one.stride) > SMALL
        ]
        if len(large) in (0, len(self.student_maps)):
            return self
        own, other = (
            levels or tuple(range(len(self.student_maps))) for levels in (self.student_levels, self.teacher_levels)
        )
        return replace(
            self,
            student_levels=tuple(own[place] for place in large),
            teacher_levels=tuple(other[place] for place in large),
            student_maps=tuple(self.student_maps[place] for place in large),
            teacher_maps=tuple(self.teacher_maps[place] for place in large),
        )

    @property
    def student_channels(self) -> list[int]:
        """Channels of the student's maps."""
        return [one.shape[1] for one in self.student_maps]

    @property
    def teacher_channels(self) -> list[int]:
        """Channels of the teacher's maps."""
        return [one.shape[1] for one in self.teacher_maps]


def match_features(student: Network, student_shapes: Shapes, teacher: Network, teacher_shapes: Shapes) -> Match:
    """Return the first pair of feature taps that have maps of the same size in the same image.

    Necks and decoders come first: of the same size, then of sizes that differ by a factor of 2 at most, of which the teacher's
    map is brought to the student's size. Then backbones; a decoder's map is compared with the last one of a backbone alone, as
    the earlier ones hold edges, not objects. Last, any two whose sizes differ by that factor.

    Args:
        student: the student network.
        student_shapes: what its modules return for an image.
        teacher: the teacher network.
        teacher_shapes: what its modules return for the same image.

    Raises:
        ValueError: no maps fit; the message lists the shapes of both sides.
    """
    mine = [path for path in student.features if _by_size(student_shapes.get(path, ()))]
    others = [path for path in teacher.features if _by_size(teacher_shapes.get(path, ()))]
    pairs = [(a, b) for a in mine for b in others]
    pairs.sort(key=lambda pair: (mine.index(pair[0]) + others.index(pair[1]), pair[0] != pair[1]))
    deep = [pair for pair in pairs if BACKBONE not in pair]
    decoders = [pair for pair in deep if all("." in path for path in pair)]
    for match, some in ((match_taps, deep), (_match_nearest, decoders), (match_taps, pairs), (_match_nearest, pairs)):
        for a, b in some:
            own, other = (
                _last_beside_decoder(*pair) for pair in ((a, student_shapes[a], b), (b, teacher_shapes[b], a))
            )
            if found := match(a, own, b, other):
                return found
    raise ValueError(
        f"no feature maps of student and teacher belong together: {_describe(student, student_shapes, mine)}; "
        f"{_describe(teacher, teacher_shapes, others)}; name maps of one stride, or of strides that differ by a factor of "
        f"{FURTHEST}, in a term of your own: freqkd taps CONFIG lists them"
    )


def _last_beside_decoder(path: str, maps: Sequence[MapShape], partner: str) -> Sequence[MapShape]:
    """Return the maps that may be compared: of a backbone beside a decoder, the last one, others without a stride."""
    if path != BACKBONE or "." not in partner:
        return maps
    return [*(MapShape(one.shape, None) for one in maps[:-1]), maps[-1]]


def match_taps(
    student_tap: str, student_maps: Sequence[MapShape], teacher_tap: str, teacher_maps: Sequence[MapShape]
) -> Match | None:
    """Return the maps of two taps that have the same size, None where there are none.

    >>> p2, p3, p4 = (MapShape((1, 8, size, size), 256 // size) for size in (64, 32, 16))
    >>> found = match_taps("neck", [p2, p3], "neck", [p3, p4])
    >>> found.student_levels, found.teacher_levels
    ((1,), (0,))
    """
    mine, others = _by_size(student_maps), _by_size(teacher_maps)
    common = [size for size in mine if size in others]
    if not common:
        return None
    own, other = tuple(mine[size] for size in common), tuple(others[size] for size in common)
    return _match(student_tap, student_maps, own, teacher_tap, teacher_maps, other)


def _match(
    student_tap: str,
    student_maps: Sequence[MapShape],
    own: tuple[int, ...],
    teacher_tap: str,
    teacher_maps: Sequence[MapShape],
    other: tuple[int, ...],
    resize: str | None = None,
) -> Match:
    return Match(
        student_tap,
        teacher_tap,
        None if own == tuple(range(len(student_maps))) else own,
        None if other == tuple(range(len(teacher_maps))) else other,
        tuple(student_maps[index] for index in own),
        tuple(teacher_maps[index] for index in other),
        resize,
    )


def _by_size(maps: Sequence[MapShape]) -> dict[tuple[int, ...], int]:
    """Return the index of the map of each size, of several the last one, the deepest of a backbone."""
    return {one.shape[2:]: index for index, one in enumerate(maps) if one.stride is not None}


def _match_nearest(
    student_tap: str, student_maps: Sequence[MapShape], teacher_tap: str, teacher_maps: Sequence[MapShape]
) -> Match | None:
    """Return the two maps of nearest size, None where they differ by more than `FURTHEST` times."""
    pairs = [(a, b) for a in _by_size(student_maps).values() for b in _by_size(teacher_maps).values()]
    if not pairs:
        return None

    def factor(pair: tuple[int, int]) -> float:
        own, other = student_maps[pair[0]].shape[2], teacher_maps[pair[1]].shape[2]
        return max(own / other, other / own)

    best = min(pairs, key=factor)
    if factor(best) > FURTHEST * 1.1:  # sizes are rounded
        return None
    return _match(student_tap, student_maps, best[:1], teacher_tap, teacher_maps, best[1:], "student")


def describe_maps(maps: Sequence[MapShape]) -> str:
    """Return channels and strides of maps in words.

    >>> describe_maps([MapShape((1, 256, 32, 32), 8), MapShape((1, 256, 16, 16), 16)])
    '256 channels at strides 8, 16'
    >>> describe_maps([MapShape((1, 64, 32, 32), 8), MapShape((1, 128, 16, 16), 16)])
    '64, 128 channels at strides 8, 16'
    """
    widths = [one.shape[1] for one in maps]
    shown = widths[:1] if len(set(widths)) == 1 else widths
    strides = ", ".join(str(one.stride) for one in maps)
    return f"{', '.join(map(str, shown))} channels at stride{'s' * (len(maps) > 1)} {strides}"


def _describe(network: Network, shapes: Shapes, paths: Sequence[str]) -> str:
    found = [f"{path!r} with {describe_maps([one for one in shapes[path] if one.stride])}" for path in paths]
    return f"the {network.owner} has {', '.join(found) or 'none'}"
