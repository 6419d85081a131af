"""ONNX of a network's raw outputs, and a comparison of what onnxruntime makes of it with torch."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.apis.complexity import RawOutputs
from freqkd.utils.errors import one_line

TOLERANCE = 1e-3  # of the largest value of an output


def check_installed() -> None:
    """Raise ValueError where the package onnx, which torch needs to write the file, is not installed."""
    if importlib.util.find_spec("onnx") is None:
        raise ValueError(
            "--onnx needs the package onnx, and onnxruntime to check the file; pip install onnx onnxruntime"
        )


def export_onnx(network: nn.Module, path: str | os.PathLike[str], images: Tensor) -> list[Tensor]:
    """Write a network's way from normalised images to the raw outputs of its heads; nothing after them.

    That is what mmdet and mmseg export by themselves: boxes, NMS and the like are for mmdeploy.

    Args:
        network: in eval mode; it is moved to the CPU.
        path: the file.
        images: (N, C, H, W) as the data preprocessor gives them; the file is for this size.

    Returns:
        The outputs of torch for these images.

    Raises:
        ValueError: the package onnx is not installed, or the network has an operation that ONNX lacks.
    """
    check_installed()
    raw = RawOutputs(network.cpu()).eval()
    draft = Path(path).with_suffix(".draft")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about sizes that are constant here
            expected = list(raw(images))
            names = [f"output_{index}" for index in range(len(expected))]
            torch.onnx.export(
                raw, (images,), str(draft), input_names=["images"], output_names=names, dynamo=False, verbose=False
            )
        os.replace(draft, path)
    except Exception as error:  # any kind: operations without a form in ONNX fail in their own ways
        raise ValueError(
            f"--onnx: {type(network).__name__} cannot be written as ONNX by torch alone ({one_line(error)}); leave out --onnx, "
            "and export it by mmdeploy from student.pth and student_config.py"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return expected


def check_onnx(path: str | os.PathLike[str], images: Tensor, expected: Sequence[Tensor]) -> float | None:
    """Run a file by onnxruntime and compare its outputs with those of torch.

    Returns:
        The largest difference, as a part of the largest value of its output; None where onnxruntime is not installed.

    Raises:
        ValueError: it cannot be run, or the outputs are others.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    runtime: Any = importlib.import_module("onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = [torch.from_numpy(one) for one in session.run(None, {"images": images.numpy()})]
    except Exception as error:  # classes of onnxruntime's own
        raise ValueError(
            f"{path} was written, but onnxruntime cannot run it ({one_line(error)}); operations of mmcv need the library of "
            "mmdeploy"
        ) from error
    if [one.shape for one in found] != [one.shape for one in expected]:
        raise ValueError(
            f"{path} must give what torch gives, got the shapes {[tuple(one.shape) for one in found]} instead of "
            f"{[tuple(one.shape) for one in expected]}; do not use it"
        )
    differences = [
        (one - other).abs().max() / other.abs().max().clamp(min=1e-12) for one, other in zip(found, expected)
    ]
    worst = float(torch.stack(differences).max())  # nan where one of them is
    if not worst < TOLERANCE:
        raise ValueError(
            f"{path} must give what torch gives, got a difference of {worst:.1e} of the largest value; do not use it"
        )
    return worst
