"""Regions: pooling, the majority label of a region, and which regions are complementary."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.losses.logits.regions import ScaleRegions, build_regions, majority_labels, pool_regions, predicted_label

torch.set_num_threads(1)
SCALES = [(1,), (1, 2), (1, 2, 4), (2, 4), (1, 8)]
SIZES = [(4, 4), (8, 8), (7, 7), (5, 9), (2, 3), (1, 1)]


def _pool(x: Tensor, scales: tuple[int, ...]) -> Tensor:
    base = F.adaptive_avg_pool2d(x, max(4, *scales))
    return torch.cat([F.adaptive_avg_pool2d(base, scale).flatten(2) for scale in scales], 2)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("size", SIZES)
def test_pooling_equals_torch(scales: tuple[int, ...], size: tuple[int, int]) -> None:
    logits = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_regions(logits, scales), _pool(logits, scales))
    everywhere = torch.ones(2, *size, dtype=torch.bool)
    torch.testing.assert_close(pool_regions(logits, scales, everywhere), _pool(logits, scales))


def test_ignored_positions_are_left_out_of_the_means() -> None:
    logits = torch.arange(64.0).view(1, 1, 8, 8)
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[:, 0, 0] = False  # one of the four positions of the first cell
    valid[:, 6:] = False  # the whole last row of cells
    logits[~valid[:, None]] = float("nan")
    pooled = pool_regions(logits, (1, 4), valid)[0, 0]
    assert pooled[1].item() == pytest.approx((1 + 8 + 9) / 3)
    assert (pooled[13:] == 0).all()
    assert pooled[0].item() == pytest.approx(pooled[1:13].mean().item())


def _majority(target: Tensor, scale: int, ignore: int) -> list[int]:
    """Count by hand, in the cells of the 4 x 4 grid."""
    height, width = target.shape
    cells = {}
    for i in range(4):
        for j in range(4):
            rows = range(i * height // 4, -(-(i + 1) * height // 4))
            columns = range(j * width // 4, -(-(j + 1) * width // 4))
            cells[i, j] = Counter(int(target[a, b]) for a in rows for b in columns)
    labels, step = [], 4 // scale
    for i in range(scale):
        for j in range(scale):
            votes: Counter[int] = Counter()
            for a in range(i * step, (i + 1) * step):
                for b in range(j * step, (j + 1) * step):
                    votes += cells[a, b]
            del votes[ignore]
            best = max(votes.values(), default=0)
            labels.append(min((label for label, count in votes.items() if count == best), default=-1))
    return labels


@pytest.mark.parametrize("size", [(8, 8), (12, 4), (7, 7), (5, 9), (3, 2)])
def test_majority_by_hand(size: tuple[int, int]) -> None:
    target = torch.randint(3, (6, *size), generator=torch.Generator().manual_seed(1))
    target[torch.rand(target.shape, generator=torch.Generator().manual_seed(2)) < 0.5] = 255
    target[5] = 255
    labels = majority_labels(target, 3, (1, 2, 4), ignore_index=255)
    expected = torch.tensor(
        [_majority(image, 1, 255) + _majority(image, 2, 255) + _majority(image, 4, 255) for image in target]
    )
    torch.testing.assert_close(labels, expected)
    assert (labels[5] == -1).all()


def test_prediction_of_a_sigmoid_head() -> None:
    logits = torch.tensor([[1.0, 2.0], [-1.0, 3.0], [-1.0, -2.0]])
    assert predicted_label(logits, "sigmoid").tolist() == [1, 1, 2]
    assert predicted_label(logits).tolist() == [1, 1, 0]


def _teacher(classes: list[list[int]]) -> Tensor:
    """Return one 4 x 4 map of logits whose 2 x 2 quarters predict these classes, the first more strongly."""
    grid = torch.zeros(1, 3, 2, 2)
    for i, row in enumerate(classes):
        for j, label in enumerate(row):
            grid[0, label, i, j] = 10.0 if (i, j) == (0, 0) else 1.0
    return F.interpolate(grid, size=(4, 4))


def test_complementary_regions_by_the_label_of_the_image() -> None:
    teacher = _teacher([[0, 1], [2, 0]])  # the whole predicts 0
    right = ScaleRegions((1, 2))(teacher, teacher, torch.tensor([0]))
    assert right.weight.tolist() == [1, 1, 2, 2, 1]
    wrong = ScaleRegions((1, 2))(teacher, teacher, torch.tensor([1]))
    assert wrong.weight.tolist() == [1, 1, 2, 1, 1]  # another wrong class is consistent
    assert ScaleRegions((1, 2), complementary=5.0)(teacher, teacher, torch.tensor([1])).weight.max() == 5


def test_complementary_regions_by_prediction_need_no_label() -> None:
    teacher = _teacher([[0, 1], [2, 0]])
    rows = ScaleRegions((1, 2), rule="prediction")(teacher, teacher)
    assert rows.weight.tolist() == [1, 1, 2, 2, 1]
    assert rows.target is None


def test_dense_labels_give_each_region_its_majority() -> None:
    teacher = _teacher([[0, 1], [2, 0]])
    target = torch.tensor([[[0, 0, 1, 1], [0, 0, 0, 1], [2, 255, 255, 255], [2, 2, 255, 255]]])
    rows = ScaleRegions((1, 2))(teacher, teacher, target, ignore_index=255)
    assert rows.target is not None
    assert rows.target.tolist() == [0, 0, 1, 2]  # the last quarter has no valid position and is gone
    assert rows.weight.tolist() == [1, 1, 1, 1]  # the teacher is right everywhere
    wrong = torch.tensor([[[0, 0, 2, 2], [0, 0, 2, 2], [0, 255, 255, 255], [255, 255, 255, 255]]])
    assert ScaleRegions((1, 2))(teacher, teacher, wrong, ignore_index=255).weight.tolist() == [1, 1, 2, 2]


def test_ignored_images_are_dropped() -> None:
    teacher = torch.cat([_teacher([[0, 1], [2, k]]) for k in range(3)])
    rows = ScaleRegions((1, 2))(teacher, teacher + 1, torch.tensor([0, 255, 1]), ignore_index=255)
    kept = ScaleRegions((1, 2))(teacher[::2], teacher[::2] + 1, torch.tensor([0, 1]))
    for found, expected in zip(rows, kept):
        assert torch.equal(found, expected)
    none = ScaleRegions((1, 2))(teacher, teacher, torch.full((3, 4, 4), 255), ignore_index=255)
    assert none.student.shape == (0, 3)


def test_background_of_a_sigmoid_head_is_a_label() -> None:
    teacher = torch.full((1, 2, 4, 4), -1.0)
    target = torch.full((1, 4, 4), 2)
    rows = ScaleRegions((1, 2))(teacher, teacher, target, activation="sigmoid")
    assert rows.weight.tolist() == [1] * 5  # rightly nothing, everywhere
    teacher[0, 0, :2, :2] = 1.0
    assert ScaleRegions((1, 2))(teacher, teacher, target, activation="sigmoid").weight.tolist() == [1, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "scales must name at least one scale"),
        ({"scales": (0, 2)}, "scales must be at least 1"),
        ({"complementary": -1.0}, "complementary must be at least 0"),
        ({"rule": "labels"}, "rule must be one of .* did you mean 'label'"),
        ({"scale": (1,)}, "takes scales, complementary, rule, got 'scale'"),
        ({"type": "grid"}, "regions type must be one of 'scales'"),
    ],
)
def test_errors_name_the_argument(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_regions(options)


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match="rule='prediction'"):
        ScaleRegions()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
