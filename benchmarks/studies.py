"""Studies of students on the samples: what each compares, as shipped configs and changes to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One kind of student.

    Args:
        method: of the shipped config, `"freekd_neck"`; `""` is the student alone.
        term: whose weight gets the ratios and whose mean ratio is reported.
        ratios: of the term's gradient to the task's; None: as shipped.
        views: of every image, for a cached teacher; 0: augmentations as shipped, no cache.
        beside: method of another config, whose logit term is added.
        loss: changes of FreeKD's loss; with `type`, another loss, which has no prompts.
        prompts: changes of the `prompts=` of the prompt stage; None: prompts are not trained.
    """

    method: str
    term: str = ""
    ratios: tuple[float | None, ...] = (None,)
    views: int = 0
    beside: str = ""
    loss: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, Any] | None = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Variants by sample and name; judged on a part of the training split, or on `val`.

    Args:
        variants: by sample, then by the name in the results and on the page.
        held_out: whether a part of the training split is held out, so that `val` stays unseen.
        seeds: of the students.
        prompt_seeds: whether each seed trains its own prompts.
    """

    variants: Mapping[str, Mapping[str, Variant]]
    held_out: bool = True
    seeds: tuple[int, ...] = (0, 1)
    prompt_seeds: bool = False


alone = partial(Variant, "")
freekd = partial(Variant, "freekd_neck", "loss_freekd")
logit = partial(Variant, term="loss_logit")
part = partial(freekd, (2.0,), 4)


def beside(method: str) -> Variant:
    """FreeKD as shipped, with a logit term of half of the task's gradient."""
    return Variant("freekd_neck", "loss_logit", (0.5,), beside=method)


# A teacher that runs, and cached ones with K views of every image.
CACHES = {
    "teacher runs": freekd(),
    **{f"cached, K = {views}": freekd(views=views) for views in (1, 4, 16)},
}
STUDIES = {
    # Which logit term helps FreeKD most?
    "terms": Study(
        {
            "detection": {
                "binary KD": beside("binary-kd_logits"),
                "CrossKD": beside("crosskd_head"),
                "quality focal KD": beside("quality-focal-kd_logits"),
                "FreeKD alone": Variant("freekd_neck"),
                "student alone": alone(),
            },
            "segmentation": {
                "NormKD": beside("normkd_logits"),
                "standardised DKD": beside("standardized-dkd_logits"),
                "CWD": beside("cwd_logits"),
                "DIST": beside("dist_logits"),
                "KD": beside("kd_logits"),
                "FreeKD alone": Variant("freekd_neck"),
                "student alone": alone(),
            },
        }
    ),
    # How strong should a term be?
    "weights": Study(
        {
            "detection": {
                "FreeKD": freekd((1.0, 2.0, 4.0), 4),
                "MSE": Variant("mse_neck", "loss_feature", (1.0, 4.0, 8.0, 16.0), 4),
                "FreeKD (ratio 1) and MSE": Variant("freekd-mse_neck", "loss_mse", (4.0, 8.0, 16.0), 4),
                "FreeKD (1), MSE and binary KD (0.5)": Variant(
                    "freekd-mse-binary-kd_neck-logits", "loss_mse", (16.0,), 4
                ),
                "quality focal KD": logit("quality-focal-kd_logits", ratios=(0.5, 2.0, 4.0), views=4),
                "binary KD": logit("binary-kd_logits", ratios=(0.5, 2.0, 4.0), views=4),
                "student alone": alone(views=4),
            },
            "segmentation": {
                "FreeKD": freekd((0.5, 1.0, 2.0, 4.0), 4),
                "MSE": freekd((0.5, 2.0), 4, loss=dict(type="freqkd.MSELoss")),
                "CWD": logit("cwd_logits", ratios=(0.5, 2.0, 4.0), views=4),
                "KD": logit("kd_logits", ratios=(0.5, 2.0, 4.0), views=4),
                "student alone": alone(views=4),
            },
        }
    ),
    # What are masks, relation and low band worth?
    "parts": Study(
        {
            "detection": {
                "as shipped": part(),
                "untrained": part(prompts=None),
                "no relation": part(loss=dict(relation="none")),
                "untrained, no relation": part(prompts=None, loss=dict(relation="none")),
                "T = 6": part(prompts=dict(num_prompts=6)),
                "official, T = 6": part(prompts=dict(preset="official", num_prompts=6), loss=dict(preset="official")),
                "no low band": part(loss=dict(band_weights=[0] + [1] * 9)),
            }
        }
    ),
    # What does a cached teacher save, and cost?
    "cache": Study({"detection": CACHES, "segmentation": CACHES}, held_out=False, seeds=(0, 1, 2)),
    # What do the demo's students reach with other seeds?
    "demo": Study(
        {
            "detection": {
                "student alone": alone(),
                "FreeKD and MSE": Variant("freekd-mse_neck"),
                "FreeKD, MSE and binary KD": Variant("freekd-mse-binary-kd_neck-logits"),
            },
            "segmentation": {
                "student alone": alone(),
                "FreeKD": Variant("freekd_neck"),
                "FreeKD and CWD": Variant("freekd-cwd_neck-logits"),
            },
        },
        held_out=False,
        seeds=(0, 1, 2),
        prompt_seeds=True,
    ),
}
