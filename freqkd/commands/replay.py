"""Run a training step that was not finite again, and print its losses, gradients and the first module that is not finite."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from mmengine.device import get_device
from mmengine.registry import MODELS, DefaultScope

from freqkd.apis.arguments import add_run_arguments, load_run_config
from freqkd.hooks.replay import Replay, read_replay
from freqkd.models.step_record import Finding, main_findings
from freqkd.utils.program import program


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the step that the arguments name again, and print what it gives."""
    parser = argparse.ArgumentParser(prog=program("replay"), description=__doc__)
    parser.add_argument("config", help="config of the training, or its copy in the work dir")
    parser.add_argument("file", help="non_finite_step_N.pth in the work dir of the training")
    add_run_arguments(parser)
    options = parser.parse_args(arguments)
    config = load_run_config(options)
    replay = read_replay(options.file)
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        model = MODELS.build(config.model).to(get_device())
        again = Replay(model, replay, options.file)
    before = [Finding.of(one) for one in replay["findings"]]
    print(f"step {replay['step']}, process {replay['rank']} of {replay['world_size']}; in training:")
    for one in before:
        print(f"    {one}")
    for name, value in again.losses.items():
        then = replay["losses"].get(name, math.nan)
        print(f"{name}: {value:g} (in training {then:g})")
    for (term, path), levels in again.norms.items():
        norms = ", ".join(f"level {level} {value:g}" for level, value in levels.items())
        print(f"gradient of distill.{term} at {path}, its norm: {norms}")
    print(f"first module whose output is not finite: {again.first or 'none, every output is finite'}")
    if again.left_out:
        print(f"left out of the batch, as not plain data: {', '.join(again.left_out)}")
    found = main_findings(again.found)
    if not {(one.kind, one.name) for one in before} & {(one.kind, one.name) for one in found}:
        raise ValueError(
            f"{options.file} is not reproduced: {', '.join(map(str, found)) or 'everything is finite'} here; the config, "
            f"the device, or the number of processes (then {replay['world_size']}) may be another"
        )
    print("reproduced: " + ", ".join(map(str, found)))
