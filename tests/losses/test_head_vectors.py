"""CWD, the detection heads and MLKD against numbers from the authors' own programs (../vectors/README.md)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.losses.bckd import bckd_terms
from freqkd.losses.boxes import quality_focal_loss
from freqkd.losses.crosskd import align_statistics, crosskd_terms
from freqkd.losses.cwd import CWDLoss, cwd_loss
from freqkd.losses.ld import ld_terms, valuable_region
from freqkd.losses.logits.loss import LogitLoss
from freqkd.losses.logits.methods import dist_loss
from freqkd.losses.mlkd import MLKDLoss, mlkd_terms

torch.set_num_threads(1)


def _grads(same: Any, arrays: dict[str, Tensor], terms: dict[str, Tensor], names: dict[str, Tensor]) -> None:
    """Compare terms, their sum where the case has it, and the sum's gradients."""
    for name, value in terms.items():
        same(value.detach(), arrays[name])
    total = torch.stack(list(terms.values())).sum()
    if "loss" in arrays:
        same(total.detach(), arrays["loss"])
    for name, grad in zip(names, torch.autograd.grad(total, list(names.values()))):
        same(grad, arrays[f"grad_{name}"])


def _head(arrays: dict[str, Tensor], prefix: str = "") -> tuple[Tensor, Tensor]:
    names = ("cls_student", "reg_student") if not prefix else (f"{prefix}_cls", f"{prefix}_reg")
    return arrays[names[0]].clone().requires_grad_(), arrays[names[1]].clone().requires_grad_()


@pytest.mark.parametrize("case", ["s0", "s1", "s2"])
def test_mlkd(case: str, logit_case: Any, same: Any) -> None:
    arrays, h = logit_case("mlkd", case)
    views = {k: arrays[k].clone() for k in ("student_weak", "student_strong", "teacher_weak", "teacher_strong")}
    for view in ("student_weak", "student_strong"):
        views[view].requires_grad_()
    terms = mlkd_terms(**views, tau=h["T"], standardize=h["logit_stand"])
    for name, value in terms.items():
        same(h["kd_weight"] * value.detach(), arrays[name])
    ce = sum(F.cross_entropy(views[v], arrays["target"]) for v in ("student_weak", "student_strong"))
    distil = MLKDLoss(tau=h["T"], standardize=h["logit_stand"], loss_weight=h["kd_weight"])(**views)
    total = distil + h["ce_weight"] * ce
    total.backward()
    same(total.detach(), arrays["loss"])
    for view in ("student_weak", "student_strong"):
        same(views[view].grad, arrays[f"grad_{view}"])


@pytest.mark.parametrize("case", ["s0", "s1", "s2"])
def test_cwd(case: str, logit_case: Any, compare: Any) -> None:
    arrays, h = logit_case("cwd", case)
    compare(arrays, lambda s, t, y: h["loss_weight"] * cwd_loss(s, t, tau=h["tau"]))
    compare(arrays, lambda s, t, y: CWDLoss(tau=h["tau"], loss_weight=h["loss_weight"])(s, t))


@pytest.mark.parametrize("seed", ["s0", "s1", "s2"])
def test_cwd_and_dist_of_openmmlab(seed: str, logit_case: Any, same: Any) -> None:
    cwd, _ = logit_case("cwd_official", seed)
    student = cwd["y_s"].requires_grad_()
    loss = cwd_loss(student, cwd["y_t"], tau=cwd["tau"].item())
    loss.backward()
    for name in ("loss", "loss_torchdistiller"):
        same(loss.detach(), cwd[name])
    torch.testing.assert_close(student.grad, cwd["grad_s"], rtol=1e-5, atol=1e-7)  # stored in float32

    dist, _ = logit_case("dist_official", seed)
    student = dist["y_s"].requires_grad_()
    options = dict(beta=dist["beta"].item(), gamma=dist["gamma"].item())
    loss = dist_loss(student, dist["y_t"], **options)
    loss.backward()
    same(loss.detach(), dist["loss"])
    torch.testing.assert_close(student.grad, dist["grad_s"], rtol=1e-5, atol=1e-7)
    for tau in (1, 2):
        same(dist_loss(student, dist["y_t"], tau=tau, **options).detach(), dist[f"loss_2d_tau{tau}"])


@pytest.mark.parametrize("case", ["s0", "s1"])
def test_ld(case: str, logit_case: Any, same: Any) -> None:
    arrays, h = logit_case("ld", case)
    cls, reg = _head(arrays)
    terms = ld_terms(
        cls,
        reg,
        arrays["cls_teacher"],
        arrays["reg_teacher"],
        arrays["labels"],
        arrays["vlr_region"],
        arrays["label_weights"],
        tau=h["ld_T"],
        class_tau=h["kd_T"],
        ld_weight=h["ld_weight"],
        vlr_weight=h["vlr_weight"],
        class_weight=h["kd_weight"],
    )
    _grads(same, arrays, terms, {"cls_student": cls, "reg_student": reg})


def test_ld_valuable_region(logit_case: Any, same: Any) -> None:
    arrays, h = logit_case("ld", "s2_vlr")
    levels = arrays["num_level_boxes"].tolist()
    region = valuable_region(arrays["boxes"], levels, arrays["gt_boxes"], topk=h["topk"], lower=h["lower_factor"])
    same(region, arrays["vlr_region"])


def test_crosskd(logit_case: Any, same: Any) -> None:
    arrays, h = logit_case("crosskd", "s0_qfl")
    pred = arrays["pred"].clone().requires_grad_()
    loss = quality_focal_loss(
        pred, arrays["target"], weight=arrays["weight"], beta=h["beta"], avg_factor=h["avg_factor"]
    )
    _grads(same, arrays, {"loss": h["loss_weight"] * loss}, {"pred": pred})
    focal = LogitLoss(dict(type="fixed", tau=1.0), dict(type="quality_focal", beta=h["beta"]), activation="sigmoid")
    module = focal(pred, arrays["target"], weight=arrays["weight"], avg_factor=h["avg_factor"])
    same(h["loss_weight"] * module.detach(), arrays["loss"])

    arrays, h = logit_case("crosskd", "s1_align")
    feat = arrays["feat_student"].clone().requires_grad_()
    aligned = align_statistics(feat, arrays["feat_teacher"], eps=h["eps"])
    same(aligned.detach(), arrays["aligned"])
    (grad,) = torch.autograd.grad((aligned * arrays["upstream"]).sum(), feat)
    same(grad, arrays["grad_feat_student"])

    arrays, h = logit_case("crosskd", "s2_gfl")
    cls, reg = _head(arrays, "cross")
    terms = crosskd_terms(
        cls,
        reg,
        arrays["cls_teacher"],
        arrays["reg_teacher"],
        arrays["label_weights"],
        avg_factor=h["avg_factor"],
        beta=h["beta"],
        tau=h["reg_T"],
        class_weight=h["cls_weight"],
        box_weight=h["reg_weight"],
    )
    _grads(same, arrays, terms, {"cross_cls": cls, "cross_reg": reg})


@pytest.mark.parametrize("case", ["s0_fn", "s1", "s2"])
def test_bckd(case: str, logit_case: Any, same: Any) -> None:
    arrays, h = logit_case("bckd", case)
    if "pred" in arrays:
        pred = arrays["pred"].clone().requires_grad_()
        loss = quality_focal_loss(pred, arrays["target"], weight=arrays["weight"], avg_factor=h["avg_factor"])
        _grads(same, arrays, {"loss": h["loss_weight"] * loss}, {"pred": pred})
        return
    cls, reg = _head(arrays)
    terms = bckd_terms(
        cls,
        reg,
        arrays["cls_teacher"],
        arrays["reg_teacher"],
        arrays["label_weights"],
        avg_factor=h["num_total_samples"],
        class_weight=h["cls_weight"],
        box_weight=h["loc_weight"],
    )
    _grads(same, arrays, terms, {"cls_student": cls, "reg_student": reg})
