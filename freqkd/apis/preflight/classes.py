"""Classes of the data, the heads and the teacher, compared by number, name and order before a run."""

from __future__ import annotations

import copy
import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from freqkd.adapters.classes import SHARED, compares_classes
from freqkd.apis.preflight.datasets import LARGE, DataError, dataset_class, inherits, leaf_datasets, lists_images
from freqkd.models.distiller import Distiller
from freqkd.models.teacher_stage import TeacherStage
from freqkd.models.term import DistillTerm
from freqkd.utils.checkpoints import classes_of, read_checkpoint
from freqkd.utils.compat import read_config
from freqkd.utils.errors import in_slot, worded
from freqkd.utils.slots import describe

HEADS = ("bbox_head", "mask_head", "roi_head", "decode_head", "auxiliary_head", "panoptic_head")
COUNTS = ("num_classes", "num_things_classes")  # the second one of MaskFormer and Mask2Former in mmdet
Names = tuple[str, ...]


# ---- the data against the heads of the model ----------------------------------------------------------------------------


def heads_of(config: Config) -> dict[str, Mapping[str, Any]]:
    """Return the heads of a config by their path: the student's, or the teacher's in a prompt stage."""
    model = config.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("student"), Mapping):
        model = model["student"]
    elif isinstance(model, Mapping) and isinstance(model.get("teacher"), Mapping) and "config" in model["teacher"]:
        teacher = copy.deepcopy(read_config(model["teacher"]["config"], "model.teacher.config"))
        teacher.merge_from_dict(dict(model["teacher"].get("cfg_options") or {}))
        model = teacher.model.get("student") or teacher.model
    found: dict[str, Mapping[str, Any]] = {}

    def collect(path: str, head: Any) -> None:
        if isinstance(head, (list, tuple)):
            for index, one in enumerate(head):
                collect(f"{path}[{index}]", one)
        elif isinstance(head, Mapping):
            if any(isinstance(head.get(count), int) for count in COUNTS):
                found[path] = head
            for name in HEADS:
                if name in head:
                    collect(f"{path}.{name}", head[name])

    for name in HEADS:
        if isinstance(model, Mapping) and name in model:
            collect(name, model[name])
    return found


def check_counts(images: Any, config: Config, where: str) -> None:
    """Compare the number of classes of a data set with those of the heads; a panoptic one has boxes of its things only.

    Raises:
        DataError: a head has fewer classes than the data set.
    """
    classes = images.metainfo.get("thing_classes") or images.metainfo.get("classes")
    if not classes or isinstance(classes, str):
        return
    _check_order(images, where)
    for path, head in heads_of(config).items():
        name = next(count for count in COUNTS if isinstance(head.get(count), int))
        count = head[name] + (0 if images.metainfo.get("thing_classes") else head.get("num_stuff_classes", 0))
        if len(classes) > count:
            raise DataError(
                f"{where}: the data set has {len(classes)} classes, and {path}.{name} is {count}: it must "
                "be at least as many; set it in the config of the network, or name fewer classes in "
                f"{where}.dataset.metainfo"
            )
        if len(classes) < count and "." not in path:
            print(
                f"warning: {where}: the data set has {len(classes)} classes, {path}.{name} is {count}; "
                "the other classes are never trained",
                file=sys.stderr,
            )


def _check_order(images: Any, where: str) -> None:
    """Warn where the labels of a data set are not numbered as its classes are named."""
    named = tuple(map(str, images.metainfo["classes"]))
    numbered = labels_of_coco(images, named)
    if numbered and numbered != named and get_rank() == 0:
        index = next((place for place, pair in enumerate(zip(numbered, named)) if pair[0] != pair[1]), len(numbered))
        label = repr(numbered[index]) if index < len(numbered) else "none"
        print(
            f"warning: {where}: mmdet numbers the classes by their order in {images.ann_file}, where class {index} is {label}, "
            f"and metainfo.classes names {named[index]!r}; name the classes that the file has, in its order",
            file=sys.stderr,
        )


# ---- names --------------------------------------------------------------------------------------------------------------


def data_classes(config: Config, split: str = "train") -> Iterator[Names]:
    """Yield the names of the classes of each data set of a split, in the order of its labels.

    Nothing is yielded for a data set that does not name its classes, or cannot be built without listing its images.

    Raises:
        ValueError: a data set cannot be built.
    """
    where = f"{split}_dataloader"
    loader = config.get(where) or {}
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        for dataset, _ in leaf_datasets(loader.get("dataset") if isinstance(loader, Mapping) else None):
            if not lists_images(dataset_class(dataset)):
                continue
            with worded(f"{where}.dataset"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                images: Any = DATASETS.build({**copy.deepcopy(dict(dataset)), "lazy_init": True})
            names = images.metainfo.get("classes")
            if isinstance(names, (list, tuple)) and names:
                yield labels_of_coco(images, tuple(map(str, names)))


def labels_of_coco(images: Any, names: Names) -> Names:
    """Return the classes of a data set in the order of its labels.

    mmdet's `CocoDataset` numbers those categories of its file that `metainfo` names in the file's order, whatever the order
    in which `metainfo` names them.
    """
    path = images.ann_file
    if not inherits(type(images), "CocoDataset.load_data_list") or not os.path.isfile(path):
        return names
    if os.path.getsize(path) > LARGE:
        return names
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    return tuple(name for entry in content["categories"] if (name := str(entry["name"])) in names)


def _plain(names: Sequence[str]) -> list[str]:
    """Return names without case, spaces and signs, as far as they still differ.

    >>> _plain(["Traffic light", "car"]), _plain(["a", "A"])
    (['trafficlight', 'car'], ['a', 'A'])
    """
    plain = [re.sub(r"[\W_]+", "", name.casefold()) for name in names]
    return plain if len(set(plain)) == len(names) else list(names)


def shared_classes(student: Sequence[str], teacher: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of indices, of the student and of the teacher, of the classes that both have by name.

    >>> shared_classes(["cat", "Traffic light", "bus"], ["bus", "dog", "traffic_light"])
    [(1, 2), (2, 0)]
    """
    places = {name: index for index, name in enumerate(_plain(teacher))}
    return [(index, places[name]) for index, name in enumerate(_plain(student)) if name in places]


def first_difference(data: Sequence[str], teacher: Sequence[str]) -> str:
    """Describe the first class in which the data and a teacher differ; "" where all agree.

    >>> first_difference(["cat", "dog"], ["cat", "bus", "dog"])
    "class 1 is 'dog' in the data and 'bus' in the teacher's checkpoint (2 and 3 classes)"
    >>> first_difference(["Traffic light"], ["traffic_light"])
    ''
    """
    ours, theirs = _plain(data), _plain(teacher)
    if ours == theirs:
        return ""
    same = (index for index, (own, other) in enumerate(zip(ours, theirs)) if own != other)
    place = next(same, min(len(data), len(teacher)))
    words = [repr(names[place]) if place < len(names) else "none" for names in (data, teacher)]
    return (
        f"class {place} is {words[0]} in the data and {words[1]} in the teacher's checkpoint ({len(data)} and "
        f"{len(teacher)} classes)"
    )


# ---- student and teacher ------------------------------------------------------------------------------------------------


def class_counts(network: nn.Module) -> list[int]:
    """Return the numbers of classes of a network's heads, without those of a region proposal or an auxiliary head.

    >>> head = nn.Module()
    >>> head.num_classes = 3
    >>> class_counts(nn.ModuleDict(dict(bbox_head=head)))
    [3]
    """
    found = set()
    for path, module in network.named_modules():
        root = path.split(".")[0]
        count = getattr(module, "num_classes", None)
        if root.endswith("head") and root not in ("rpn_head", "auxiliary_head") and type(count) is int:
            found.add(count)
    return sorted(found)


def check_classes(model: Any, config: Config) -> None:
    """Compare the classes of the training data and of the student's heads with those of the teacher.

    What a checkpoint or a data set does not say is not compared. A difference is an error for terms that compare class
    logits, and for a first stage, whose teacher learns from the data's labels; for other terms it is a warning.

    Args:
        model: the built model of `config`.
        config: the config of a training.

    Raises:
        ValueError: the classes differ; the message names the first of them.
    """
    if not isinstance(model, (Distiller, TeacherStage)):
        return
    model.prepare()
    found = _difference(model, config)
    if not found:
        return
    cure = (
        "if the checkpoint names them wrongly, state them: model.teacher.classes=[...], in the order of the teacher's class "
        "logits"
    )
    if isinstance(model, TeacherStage):
        raise ValueError(
            f"the data of a first stage must have the teacher's classes in their order, because its losses read the labels: "
            f"{found}; train the teacher on these classes, or {cure}"
        )
    reading = [name for name, term in model.terms.items() if _reads_classes(term, model)]
    if reading:
        raise ValueError(
            f"student and teacher must have the same classes in the same order for terms.{reading[0]}, which compares class "
            f"logits: {found}; {_sharing(model.terms[reading[0]])}distil features (a tap in the neck), or {cure}"
        )
    others = [name for name, term in model.terms.items() if term.adapter is None or term.adapter.shared is None]
    copied = [path for path in model.inherit if path.split(".")[0].endswith("head")]
    what = [f"terms.{others[0]} distils features across them"] if others else []
    what += [f"{copied[0]!r}, which is inherited, starts with the teacher's"] if copied else []
    if what and get_rank() == 0:
        print(f"warning: student and teacher have other classes: {found}; {', and '.join(what)}", file=sys.stderr)


def _sharing(term: DistillTerm) -> str:
    """Advise how a term can compare the classes that both networks have; "" where its adapter cannot."""
    if term.adapter is None:
        return "give it an adapter with classes='shared', e.g. DenseLogits or SegLogits, or "
    if "classes" in inspect.signature(type(term.adapter)).parameters:
        return "add classes='shared' to its adapter to distil the classes that both have, or "
    return ""


def _reads_classes(term: DistillTerm, model: Distiller) -> bool:
    taps: list[tuple[nn.Module, str]] = [(model.student, term.student_tap)]
    if term.teacher_tap in term.teacher_paths:
        taps.append((model.teacher.model, term.teacher_tap))
    return compares_classes(term.adapter, term.loss, taps)


def _difference(model: Any, config: Config) -> str:
    """Describe in what the classes of a model's teacher differ from those of the data, or of the student's heads."""
    names = getattr(model.teacher, "classes", None)
    found = next((text for data in data_classes(config) if names and (text := first_difference(data, names))), "")
    if found or isinstance(model, TeacherStage):
        return found
    own, other = class_counts(model.student), class_counts(model.teacher.model)
    if own and other and not set(own) & set(other):
        return f"the student's heads have {_counted(own)} classes, the teacher's {_counted(other)}"
    return ""


def _counted(counts: Sequence[int]) -> str:
    return " and ".join(map(str, counts))


def resolve_shared_classes(config: Config, trust: bool = False) -> None:
    """Replace `classes='shared'` in the adapters of a distillation by the pairs of indices of the classes that both have.

    The student's classes are those of the training data, the teacher's those of `model.teacher.classes` or of its checkpoint.

    Raises:
        ValueError: one of them is not known, or they have no class in common.
        CheckpointError: the teacher's checkpoint cannot be read.
    """
    model = config.get("model") or {}
    terms = model.get("terms") if isinstance(model, Mapping) else None
    named = terms.items() if isinstance(terms, Mapping) else ()  # the Distiller refuses others
    given: dict[str, Any] = {name: term.get("adapter") for name, term in named if isinstance(term, Mapping)}
    adapters: dict[str, Any] = {
        name: one for name, one in given.items() if isinstance(one, Mapping) and one.get("classes") == SHARED
    }
    teacher = model.get("teacher") if adapters else None
    if not isinstance(teacher, Mapping):
        return
    slot = f"terms.{next(iter(adapters))}.adapter.classes"
    known = tuple(teacher.get("classes") or ())
    if not known and teacher.get("checkpoint"):
        trusted = trust or bool(teacher.get("trust_checkpoint"))
        with in_slot("model.teacher.checkpoint"):
            known = tuple(classes_of(read_checkpoint(str(teacher["checkpoint"]), trusted)) or ())
    data = list(data_classes(config))
    for what, names in (("the teacher's checkpoint", known), ("the training data", data)):
        if not names:
            raise ValueError(
                f"{slot} must be pairs of indices, [(student, teacher), ...], where {what} does not name its classes, got "
                "'shared'"
            )
    if any(names != data[0] for names in data):
        raise ValueError(f"{slot}='shared' needs the same classes in all training data, got {describe(data)}")
    pairs = shared_classes(data[0], known)
    if not pairs:
        raise ValueError(
            f"{slot}='shared' needs a class that both have, got {describe(data[0])} in the training data and "
            f"{describe(known)} in the teacher; name pairs of indices, [(student, teacher), ...]"
        )
    for adapter in adapters.values():
        adapter["classes"] = pairs
    if get_rank() == 0:
        shared = ", ".join(data[0][index] for index, _ in pairs)
        print(f"distilled classes, which student and teacher share: {shared}", file=sys.stderr)
