"""Configs of a distillation from two names: `freqkd new-config STUDENT TEACHER --checkpoint FILE --out DIR`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freqkd.pairs.configs import Changes, Written, write_configs
from freqkd.pairs.data import OwnData, data_settings, head_settings, read_coco, read_folder
from freqkd.pairs.methods import METHODS
from freqkd.pairs.networks import Network, read_network
from freqkd.pairs.sizes import are_apart, in_words, resizings, size_after, training_size
from freqkd.pairs.terms import choose_term, run_pair
from freqkd.utils.checkpoints import CheckpointError, check_fit, read_checkpoint
from freqkd.utils.compat import read_config
from freqkd.utils.errors import EPILOG
from freqkd.utils.paths import find_file
from freqkd.utils.program import program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what both commands that write configs take."""
    parser.add_argument("student", help="config of the student: a file, or mmdet::NAME / mmseg::NAME")
    parser.add_argument("teacher", help="config of the teacher")
    parser.add_argument("--checkpoint", required=True, help="the teacher's weights: a file or an https address")
    parser.add_argument(
        "--method", nargs="+", default=["details"], metavar="NAME", help=f"one or several of {', '.join(METHODS)}"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for the configs")
    parser.add_argument("--overwrite", action="store_true", help="write configs anew that were changed by hand")
    parser.add_argument("--inherit", action="store_true", help="start parts of equal shapes from the teacher's weights")
    parser.add_argument("--data", help="own data: a file in COCO's format, or a folder with images/ and labels/")
    parser.add_argument("--images", help="folder that the file names in --data are relative to")
    parser.add_argument("--val", help="file in COCO's format for validation; else a fifth of the images is drawn")
    parser.add_argument("--val-images", help="folder of the images in --val; the same as --images")
    parser.add_argument("--classes", nargs="+", default=(), help="names of the classes of a folder, by label")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of images for validation")
    parser.add_argument("--trust-checkpoint", action="store_true", help="also read a checkpoint that can run code")


def new_config(
    student: str,
    teacher: str,
    checkpoint: str,
    out: Path,
    methods: Sequence[str] = ("details",),
    data: OwnData | None = None,
    inherit: bool = False,
    trust: bool = False,
    overwrite: bool = False,
    keep: bool = False,
) -> Written:
    """Write the configs of a distillation; nothing is downloaded.

    Args:
        student: config of the student, a file or a name of mmdet or mmseg.
        teacher: config of the teacher.
        checkpoint: file or address of the teacher's weights; a file is compared with the teacher.
        out: folder for the configs.
        methods: names of methods; each gives a term.
        data: the user's; None: that of the student's config.
        inherit: whether parts of equal shapes start from the teacher's weights.
        trust: read a checkpoint that needs arbitrary unpickling.
        overwrite: write configs anew that were changed by hand.
        keep: leave such configs as they are where they are of the same arguments; else they are refused.

    Raises:
        ValueError: a config cannot be used or was changed by hand, or a method does not fit the pair.
        CheckpointError: the file cannot be read, or is of another network.
    """
    if len(set(methods)) != len(methods) or not methods:
        raise ValueError(f"--method must name methods, each once, got {', '.join(methods) or 'none'}")
    student, teacher, checkpoint = map(find_file, (student, teacher, checkpoint))
    if data is None:
        pair = run_pair(read_network(student, "student"), _fitting(teacher, checkpoint, None, trust)[0])
        changes = Changes(notes=_size_notes(pair.student, pair.teacher))
    else:
        pupil = _with_classes(student, "student", data)
        fitted, known = _fitting(teacher, checkpoint, data, trust)
        if pupil.task != ("detection" if data.kind == "CocoDataset" else "segmentation"):
            raise ValueError(f"--data must be for a network of {pupil.scope}, got a {data.kind} for {student}")
        words = list(data.words)
        if not known:
            words.append("The teacher's own classes are others: its maps are compared, its class scores cannot be.")
            if any(METHODS[name].prompts for name in methods if name in METHODS):
                raise ValueError(
                    f"--method freekd trains prompts by the teacher's own loss, on classes that it knows: {checkpoint} is of "
                    "other classes than --data; train the teacher on the data, or use --method details"
                )
        scale = _teachers_scale(pupil, fitted)
        changes = Changes(
            _settings(student, data, scale),
            _settings(teacher, data) if known else {},
            words,
            _size_notes(pupil, fitted, scale),
            data.files,
        )
        pair = run_pair(pupil, fitted, size_after(scale))
    terms = [choose_term(pair, name) for name in methods]
    return write_configs(pair, terms, checkpoint, out, changes, inherit, overwrite, keep)


def _teachers_scale(student: Network, teacher: Network) -> dict[str, Any] | None:
    """Return the resizing of the teacher's images where the student's pipelines must have it, None where theirs can stay.

    A network that takes images of one size only, as SSD does, keeps its own.
    """
    own = list(resizings(student.config, ("train", "val")))
    scale = next(resizings(teacher.config, ("val", "test", "train")), None)
    takes_any = len(own) == 2 and all(one["keep_ratio"] for one in own)
    return scale if takes_any and are_apart(size_after(own[0]), size_after(scale)) else None


def _size_notes(student: Network, teacher: Network, scale: Mapping[str, Any] | None = None) -> list[str]:
    """Return what the user should know of the sizes of images, where those of both networks are far from each other."""
    own = training_size(student.config) or next(map(size_after, resizings(student.config, ("val", "test"))), None)
    other = next(map(size_after, resizings(teacher.config, ("val", "test", "train"))), None)
    if own is None or other is None or not are_apart(own, other):
        return []
    why = "a teacher sees little in images of another size than it was trained on"
    if scale is not None:
        return [f"Images have the teacher's size, {in_words(other)}, in place of {in_words(own)}: {why}."]
    return [
        f"WARNING: the student's images are of {in_words(own)}, the teacher's of {in_words(other)}, and {why}. "
        "Set the sizes in the student's pipelines, or use a teacher of this size."
    ]


def _with_classes(name: str, owner: str, data: OwnData) -> Network:
    """Build the network of a config with heads for the classes of the data."""
    heads = head_settings(read_config(name).model, len(data.classes))
    return read_network(name, owner, dict(model=heads) if heads else None)


def _settings(name: str, data: OwnData, scale: Mapping[str, Any] | None = None) -> dict[str, Any]:
    config = read_config(name)
    heads = head_settings(config.model, len(data.classes))
    return {**data_settings(config, data, scale), **({"model": heads} if heads else {})}


def _fitting(teacher: str, checkpoint: str, data: OwnData | None, trust: bool) -> tuple[Network, bool]:
    """Build the teacher as its checkpoint has it; say whether it is of the classes of the data.

    An address is not read: it is taken for weights of the config as it is.
    """
    same = data is None or not head_settings(read_config(teacher).model, len(data.classes))
    if checkpoint.startswith(("http://", "https://")):
        return read_network(teacher, "teacher"), same
    loaded = read_checkpoint(checkpoint, trust)
    refused = None
    if data is not None and not same:
        network = _with_classes(teacher, "teacher", data)
        try:
            check_fit(network.model, loaded, checkpoint, f"the config {teacher}, with {len(data.classes)} classes")
            return network, True
        except CheckpointError as error:
            refused = error
    network = read_network(teacher, "teacher")
    try:
        check_fit(network.model, loaded, checkpoint, f"the config {teacher}")
    except CheckpointError as error:
        raise refused or error from None
    return network, same


def read_data(options: argparse.Namespace) -> OwnData | None:
    """Read the data that the arguments name.

    Raises:
        ValueError: arguments are missing, or do not belong together, or the data cannot be used.
    """
    given = [name for name in ("images", "val", "val_images", "classes") if getattr(options, name)]
    flags = [f"--{name.replace('_', '-')}" for name in given]
    if options.data is None:
        if flags:
            raise ValueError(f"{flags[0]} needs --data, which names your data, got none")
        return None
    if not os.path.exists(options.data):
        raise ValueError(
            f"--data: {options.data} does not exist; name a file in COCO's format, or a folder with images/ and labels/"
        )
    if os.path.isdir(options.data):
        if given and given[0] != "classes":
            raise ValueError(
                f"{flags[0]} is for a file in COCO's format, and --data names a folder, {options.data}; parts for training and "
                "validation are its folders train/ and val/, in images/ and labels/"
            )
        return read_folder(options.data, options.out, options.classes, options.seed)
    if options.images is None:
        raise ValueError(f"--images must name the folder of the images of --data {options.data}, got none")
    if options.val_images and not options.val:
        raise ValueError(f"--val-images needs --val, the file of its annotations, got none for {options.val_images}")
    data = read_coco(options.data, options.images, options.out, options.val, options.val_images, options.seed)
    if options.classes:
        raise ValueError(
            "--classes is for a folder of label maps, and --data names a file in COCO's format, whose classes are "
            f"{', '.join(data.classes)}; leave it out"
        )
    return data


def write_from(options: argparse.Namespace, keep: bool = False) -> Written:
    """Write the configs that the arguments ask for, and print what the user should know of them."""
    written = new_config(
        options.student,
        options.teacher,
        options.checkpoint,
        options.out,
        options.method,
        read_data(options),
        options.inherit,
        options.trust_checkpoint,
        options.overwrite,
        keep,
    )
    for note in written.notes:
        print(note)
    for path in written.kept:
        print(f"{path} was changed since it was written: kept; --overwrite writes it anew.")
    return written


def commands(written: Written) -> list[str]:
    """Return the commands that run the configs, in their order."""
    stages = [path for path in (written.prompts, written.distillation) if path is not None]
    return [f"freqkd train {path}" for path in stages]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the configs, and print the commands that run them."""
    parser = argparse.ArgumentParser(
        prog=program("new-config"),
        description="Write the configs of a distillation: what is tapped, aligns, adapters and losses for two networks.",
        epilog=EPILOG,
    )
    add_arguments(parser)
    written = write_from(parser.parse_args(arguments))
    files = [written.student, written.teacher, written.prompts, written.distillation]
    print(f"Wrote {', '.join(str(path) for path in files if path is not None)}. Run:")
    print("\n".join(commands(written)))
