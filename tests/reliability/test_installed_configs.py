"""The configs that mmdet and mmseg install are taken, but for those that MMEngine cannot run either."""

import importlib.util
import re
from pathlib import Path

import pytest

from freqkd.apis.preflight.runner import check_parts
from freqkd.utils.compat import read_config

# Fragments, test configs of trackers, missing packages and files, a loader without a sampler, a loop with two kinds.
BROKEN = re.compile(
    r"must have a model|the config lacks|cannot be imported|cannot be read: (FileNotFoundError|No such file)|"
    r"sampler must be given|must have a type or by_epoch"
)


def refusal(path):
    try:
        config = read_config(path)
        for slot in ("val_evaluator", "test_evaluator"):  # their annotation files are not here
            if config.get(slot) is not None:
                config[slot] = dict(type="mmengine.DumpResults", out_file_path="x.pkl")
        check_parts(config, "train")
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.long
@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_the_configs_of_a_package_are_taken(package):
    root = Path(importlib.util.find_spec(package).origin).parent
    found = sorted(path for folder in (".mim/configs", "configs") for path in (root / folder).glob("*/*.py"))
    found = [path for path in found if path.parent.name not in ("_base_", "common")]
    assert len(found) > 400
    refused = {path.name: text for path in found if (text := refusal(path))}
    assert {name: text for name, text in refused.items() if not BROKEN.search(text)} == {}
    assert len(refused) < len(found) / 10
