"""The optimizer that is built before a run, to be checked."""

from __future__ import annotations

import logging

from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import nn

from freqkd.apis.preflight.runner import check_optimization

OPTIMIZER = dict(optimizer=dict(type="SGD", lr=0.1, weight_decay=1e-4), paramwise_cfg=dict(norm_decay_mult=0.0))


def test_what_the_run_will_say_is_not_said_before_it():
    logger, said = MMLogger.get_current_instance(), []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    try:
        logger.info("before")
        check_optimization(Config(dict(optim_wrapper=OPTIMIZER)), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
        logger.info("after")
    finally:
        logger.removeHandler(handler)
    assert said == ["before", "after"]
