"""Export the student of a training: student.pth and student_config.py, without anything of this package.

A backbone of freqkd.backbones still needs the package installed. The table says what one image costs teacher and
student here, without post-processing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from freqkd.apis.complexity import compare, format_table, image_size, random_image
from freqkd.apis.export import build_student, export_student
from freqkd.apis.onnx import check_installed, check_onnx, export_onnx
from freqkd.utils.checkpoints import load_network, read_checkpoint
from freqkd.utils.compat import read_config
from freqkd.utils.errors import EPILOG
from freqkd.utils.program import program


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the student's files, and print what its network costs."""
    parser = argparse.ArgumentParser(prog=program("export"), description=__doc__, epilog=EPILOG)
    parser.add_argument("config", help="config of the distillation")
    parser.add_argument("checkpoint", help="checkpoint of the distillation")
    parser.add_argument("--out-dir", required=True, help="folder for the files")
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    parser.add_argument("--trust-checkpoint", action="store_true", help="also load checkpoints that can run code")
    parser.add_argument(
        "--onnx", action="store_true", help="also write student.onnx: from normalised images to the heads' raw outputs"
    )
    parser.add_argument(
        "--shape", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="of the image; default: as the config's tests"
    )
    options = parser.parse_args(arguments)
    if options.shape and min(options.shape) < 1:
        raise ValueError(f"--shape must be height and width, at least 1, got {options.shape}")
    if options.onnx:
        check_installed()
    config = read_config(options.config, "argument config")
    path = export_student(config, options.checkpoint, options.out_dir, options.half, options.trust_checkpoint)
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB) and {path.parent / 'student_config.py'}")
    student = build_student(config).eval()
    load_network(student, read_checkpoint(path), str(path))
    size = tuple(options.shape) if options.shape else image_size(config, student)
    print(format_table(compare(config, student, size), size))
    if options.onnx:
        images = random_image(student, size)
        file = path.parent / "student.onnx"
        difference = check_onnx(file, images, export_onnx(student, file, images))
        checked = "not compared with torch: pip install onnxruntime"
        if difference is not None:
            checked = f"onnxruntime gives what torch gives, to {difference:.0e} of the largest value"
        print(f"Wrote {file} for images {'x'.join(map(str, images.shape))}, normalised; {checked}")
