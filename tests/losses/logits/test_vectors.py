"""Methods of logit distillation against numbers from the authors' own programs (../../vectors/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.losses.logits import methods
from freqkd.losses.logits.loss import LogitLoss
from freqkd.losses.logits.softening import AnnealedLogits, LearnedTemperature, annealing_factor, reversal_strength

torch.set_num_threads(1)
VECTORS = Path(__file__).parents[2] / "vectors"
# made with NKD's mask before the authors' fix, which left the labelled class among the others
UNCORRECTED = {("nkd", "s2"), ("sdd", "s0_nkd"), ("sdd", "s2_nkd")}


def _cases(name: str, kinds: tuple[str, ...] = ("logits", "dense", "logit_map")) -> list[str]:
    with np.load(VECTORS / f"{name}.npz") as archive:
        cases = json.loads(str(archive["meta"]))["cases"].items()
    found = [c for c, case in cases if case["kind"] in kinds and not case.get("informational")]
    assert found, name
    return [case for case in found if (name, case) not in UNCORRECTED]


# file -> from the case's settings to the choices of `LogitLoss` and to the named function's arguments
Settings = dict[str, Any]


def _dkd(h: Settings) -> Settings:
    return dict(type="dkd", alpha=h["alpha"], beta=h["beta"])


def _host(h: Settings) -> Settings | str:
    return _dkd(h) if h["variant"] == "dkd" else "kl"


def _sdd(h: Settings) -> Settings:
    return dict(scales=tuple(json.loads(h["M"])))


GRID: dict[str, tuple[Callable[[Settings], Settings], Callable[..., Tensor], Callable[[Settings], Settings]]] = {
    "kd": (
        lambda h: dict(softening=dict(type="fixed", tau=h["T"]), divergence="kl"),
        methods.kd_loss,
        lambda h: dict(tau=h["T"]),
    ),
    "dkd": (
        lambda h: dict(softening=dict(type="fixed", tau=h["T"]), divergence=_dkd(h)),
        methods.dkd_loss,
        lambda h: dict(tau=h["T"], alpha=h["alpha"], beta=h["beta"]),
    ),
    "nkd": (
        lambda h: dict(softening=dict(type="fixed", tau=h["T"]), divergence=dict(type="nkd", gamma=h["gamma"])),
        methods.nkd_loss,
        lambda h: dict(tau=h["T"], gamma=h["gamma"]),
    ),
    "dist": (
        lambda h: dict(
            softening=dict(type="fixed", tau=1.0), divergence=dict(type="dist", beta=h["beta"], gamma=h["gamma"])
        ),
        methods.dist_loss,
        lambda h: dict(beta=h["beta"], gamma=h["gamma"]),
    ),
    "normkd": (
        lambda h: dict(softening=dict(type="normalized", tau=h["T_norm"]), divergence="kl"),
        methods.normkd_loss,
        lambda h: dict(tau=h["T_norm"]),
    ),
    "normkd_dkd": (
        lambda h: dict(softening=dict(type="normalized", tau=h["T_norm"]), divergence=_dkd(h)),
        methods.normkd_loss,
        lambda h: dict(tau=h["T_norm"], divergence=_dkd(h)),
    ),
    "logit_stand": (
        lambda h: dict(softening=dict(type="standardized", tau=h["T"]), divergence=_host(h)),
        methods.standardized_kd_loss,
        lambda h: dict(tau=h["T"], divergence=_host(h)),
    ),
    "sdd": (
        lambda h: dict(softening=dict(type="fixed", tau=h["T"]), divergence=_host(h), regions=_sdd(h)),
        methods.sdd_loss,
        lambda h: dict(tau=h["T"], divergence=_host(h), **_sdd(h)),
    ),
}
GRID_CASES = [(name, case) for name in GRID for case in _cases(name)]


@pytest.mark.parametrize(("name", "case"), GRID_CASES)
@pytest.mark.parametrize("through", ["module", "function"])
def test_grid_points(name: str, case: str, through: str, logit_case: Any, compare: Any) -> None:
    arrays, hyper = logit_case(name, case)
    choices, function, arguments = GRID[name]
    ignore = hyper.get("ignore_index")
    if through == "module":
        loss = LogitLoss(**choices(hyper), ignore_index=ignore)
    else:

        def loss(s: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return function(s, t, y, **arguments(hyper), ignore_index=ignore)

    compare(arrays, loss, "_map" if name == "sdd" else "")


@pytest.mark.parametrize(("name", "case"), [(n, c) for n in ("dkd", "normkd_dkd") for c in _cases(n)])
def test_both_parts_of_dkd(name: str, case: str, logit_case: Any, same: Any) -> None:
    arrays, hyper = logit_case(name, case)
    for part, alpha in (("tckd", 1.0), ("nckd", 0.0)):
        choices = GRID[name][0](hyper | dict(alpha=alpha, beta=1.0 - alpha))
        same(LogitLoss(**choices)(arrays["student"], arrays["teacher"], arrays["target"]), arrays[part])


@pytest.mark.parametrize("through", ["module", "function"])
@pytest.mark.parametrize("case", _cases("dtkd"))
def test_dtkd_term_and_published_total(case: str, through: str, logit_case: Any, same: Any, compare: Any) -> None:
    arrays, hyper = logit_case("dtkd", case)
    tau = hyper["T"]

    def total(student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None
        if through == "module":
            term = LogitLoss(dict(type="dynamic", tau=tau), "kl")(student, teacher)
            kd = LogitLoss(dict(type="fixed", tau=tau), "kl")(student, teacher)
        else:
            term, kd = methods.dtkd_loss(student, teacher, tau=tau), methods.kd_loss(student, teacher, tau=tau)
        ce = F.cross_entropy(student, target)
        for part, name in ((term, "dtkd_term"), (kd, "kd_term"), (ce, "ce_term")):
            same(part.detach(), arrays[name])
        warm_up = min(hyper["epoch"] / hyper["warmup"], 1.0)
        return warm_up * (hyper["alpha"] * term + hyper["beta"] * kd) + hyper["ce_weight"] * ce

    compare(arrays, total)


@pytest.mark.parametrize("case", _cases("annealing_kd"))
def test_annealing_both_phases(case: str, logit_case: Any, compare: Any) -> None:
    arrays, hyper = logit_case("annealing_kd", case)
    if hyper["phase"] == 1:
        step, tau_max = hyper["T_counter"], hyper["tau_max"]
        loss = LogitLoss(dict(type="annealed", tau_max=tau_max, epochs=200), "mse")
        loss.set_progress((step - 1) * 200 // tau_max)
        compare(arrays, loss)
        tau = tau_max + 1 - step
        compare(arrays, lambda s, t, y: methods.annealing_kd_loss(s, t, y, tau=tau, tau_max=tau_max))
    else:  # the labels alone: the term has become zero
        loss = LogitLoss(AnnealedLogits(10, 200), "mse")
        loss.set_progress(200)
        compare(arrays, lambda s, t, y: loss(s, t, y) + F.cross_entropy(s, y))


@pytest.mark.parametrize("case", _cases("annealing_kd", ("schedule",)))
def test_annealing_schedule(case: str, logit_case: Any, same: Any) -> None:
    arrays, hyper = logit_case("annealing_kd", case)
    tau_max, epochs = hyper["tau_max"], hyper["epochs_phase1"]
    phi = [annealing_factor(epoch, tau_max, epochs) for epoch in range(len(arrays["phi"]))]
    same(torch.tensor(phi, dtype=torch.float64), arrays["phi"])


@pytest.mark.parametrize("case", _cases("ctkd"))
def test_ctkd(case: str, logit_case: Any, same: Any, compare: Any) -> None:
    arrays, h = logit_case("ctkd", case)
    softening = LearnedTemperature(h["t_start"], h["t_end"], h["global_T"], h["decay_loops"], h["logit_stand"]).double()
    torch.nn.init.constant_(softening.raw_tau, h["global_T"])
    loss = LogitLoss(softening, "kl")
    loss.set_progress(h["epoch"] - 1)  # the authors count epochs from 1
    compare(arrays, loss)
    same(softening.temperature.detach().view(1), arrays["temperature"])
    assert softening.raw_tau.grad is not None
    same(softening.raw_tau.grad.view(1), arrays["grad_global_T"])
    same(reversal_strength(h["epoch"], h["decay_loops"]), arrays["grl_lambda"])


def test_ctkd_schedule(logit_case: Any, same: Any) -> None:
    arrays, hyper = logit_case("ctkd", "schedule")
    strengths = [reversal_strength(int(epoch), hyper["decay_loops"]) for epoch in arrays["epoch"]]
    same(torch.tensor(strengths, dtype=torch.float64), arrays["grl_lambda"])
