"""Prompt files: tokens and gates of a prompt stage, with what made them, and the comparison with what shall use them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from freqkd.losses.freekd.loss import FreeKDLoss
from freqkd.losses.freekd.prompts import PROMPT_PRESETS, FrequencyPrompt, check_prompt_options, count_bands
from freqkd.losses.freekd.relation import KANGate
from freqkd.losses.freekd.wavelets import HAAR_NAMES
from freqkd.models.options import part_class
from freqkd.utils.checkpoints import STATE, CheckpointError, read_checkpoint, write_atomic
from freqkd.utils.checks import WIDEST, check_levels, check_whole
from freqkd.utils.paths import find_file, where_looked

_PLACES = dict(tap="the term's teacher_tap=", levels="the term's levels", gate="the loss's relation=")
LOSS_KEYS = ("channels", "num_levels", "num_prompts", "tokens_per", "depth", "wavelet", "score")
_KINDS: dict[str, Any] = dict(
    tap=str, teacher=str, teacher_hash=str, gate=(bool, str), wavelet=str, tokens_per=str, score=str
)
GATE_CHOICES: dict[Any, str] = {True: "gate", "kan": "kan-gate"}  # of the prompt stage, and as `relation=` of the loss
_KINDS.update(levels=list, channels=list, num_levels=int, num_prompts=int, depth=int)


def describe_prompts(prompts: nn.ModuleList, gates: nn.ModuleList) -> dict[str, Any]:
    """Return what made the prompts of every level, by the names of `FreeKDLoss`'s arguments.

    >>> from freqkd.losses.freekd.prompts import build_prompts
    >>> describe_prompts(build_prompts(4, 1, preset="official"), nn.ModuleList())  # doctest: +NORMALIZE_WHITESPACE
    {'channels': [4], 'num_levels': 1, 'num_prompts': 2, 'tokens_per': 'scale', 'depth': 3, 'wavelet': 'haar',
     'score': 'signed', 'gate': False}
    """
    parts = [cast(FrequencyPrompt, prompt) for prompt in prompts]
    first = parts[0]
    return dict(
        channels=[prompt.channels for prompt in parts],
        num_levels=len(parts),
        num_prompts=first.num_prompts,
        tokens_per=first.tokens_per,
        depth=first.depth,
        wavelet=_wavelet(first.wavelet),
        score=first.score,
        gate=len(gates) > 0 and ("kan" if isinstance(gates[0], KANGate) else True),
    )


def _wavelet(name: str) -> str:
    return "haar" if name in HAAR_NAMES else name


def write_prompts(model: Any, path: str) -> None:
    """Write the prompts of a `PromptTuner` to a file, whole or not at all."""
    model.prepare()
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    made = describe_prompts(model.prompts, model.gates)
    levels = list(range(len(model.prompts)) if model.levels is None else model.levels)
    made.update(tap=model.tap, levels=levels, teacher=str(model.teacher.checkpoint), teacher_hash=model.teacher.hash)
    write_atomic(dict(state_dict=state, meta=made), path)


@dataclass(frozen=True)
class PromptFile:
    """The content of a prompt file.

    Attributes:
        path: the file.
        tensors: `prompts.<level>.tokens`, and `gates.<level>.*`.
        made: what made them: tap, levels, channels, num_levels, num_prompts, tokens_per, depth, wavelet, score, gate, teacher
            and teacher_hash.
    """

    path: str
    tensors: dict[str, Tensor]
    made: dict[str, Any]

    def compare(self, stated: Mapping[str, Any]) -> None:
        """Compare what a term and its loss state with what made the prompts.

        Args:
            stated: values by the names of `made`; what is not stated is not compared.

        Raises:
            CheckpointError: they differ; names all that do.
        """
        wrong = [name for name, value in stated.items() if repr(value) != repr(self.made[name])]
        if wrong:
            made, used = (", ".join(f"{name}={which[name]!r}" for name in wrong) for which in (self.made, stated))
            places = ", ".join(_PLACES.get(name, f"the loss's {name}=") for name in wrong)
            raise CheckpointError(
                f"prompt checkpoint {self.path} was trained with {made}, but is used with {used}: these must agree; leave "
                f"out {places}, which the file says, or train prompts for this use (freqkd train PROMPT_CONFIG)"
            )

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a `FreeKDLoss` completed by what the file says, after comparing what both say.

        Raises:
            CheckpointError: they differ.
        """
        stated = {name: value for name, value in options.items() if name in LOSS_KEYS}
        if isinstance(stated.get("channels"), int):
            stated["channels"] = [stated["channels"]] * len(self.made["channels"])
        elif isinstance(stated.get("channels"), (tuple, list)):
            stated["channels"] = list(stated["channels"])
        if isinstance(stated.get("wavelet"), str):
            stated["wavelet"] = _wavelet(stated["wavelet"])
        preset = options.get("preset")
        if preset in PROMPT_PRESETS:
            stated.setdefault("tokens_per", PROMPT_PRESETS[preset]["tokens_per"])
        if options.get("relation") is not None:
            stated["gate"] = next((gate for gate, word in GATE_CHOICES.items() if word == options["relation"]), False)
        self.compare(stated)
        found = {name: self.made[name] for name in LOSS_KEYS}
        return {**options, **found, **({"relation": GATE_CHOICES[self.made["gate"]]} if self.made["gate"] else {})}

    def complete_align(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of an align completed by the teacher's channels and the number of levels, if it takes them."""
        known = inspect.signature(part_class("align", options)).parameters
        said = dict(teacher_channels=self.made["channels"], num_levels=self.made["num_levels"])
        return {**{name: value for name, value in said.items() if name in known}, **options}

    def load_into(self, loss: FreeKDLoss) -> None:
        """Copy the tokens and gates into a loss.

        Raises:
            CheckpointError: they do not fit it, or hold a number that is not finite.
        """
        self.compare(describe_prompts(loss.prompts, loss.gates))
        try:
            loss.load_prompts(self.tensors)
        except ValueError as error:
            raise CheckpointError(f"prompt checkpoint {self.path} does not fit this loss: {error}") from None

    def check_teacher(self, teacher: Any) -> None:
        """Check that the prompts were trained on this teacher.

        Raises:
            CheckpointError: its weights are others.
        """
        if self.made["teacher_hash"] != teacher.hash:
            raise CheckpointError(
                f"prompt checkpoint {self.path} was made for another teacher (weights {self.made['teacher_hash'][:12]}, this "
                f"teacher {teacher.hash[:12]}, {teacher.checkpoint}); train prompts on this teacher"
            )


def read_prompts(path: str) -> PromptFile:
    """Read a prompt file.

    Raises:
        CheckpointError: it is missing or damaged, or another kind of checkpoint.
    """
    path = find_file(path)
    if not os.path.isfile(path):
        raise CheckpointError(
            f"prompt checkpoint not found: {path}; train the prompts first (freqkd train PROMPT_CONFIG), or check the path"
            f"{where_looked(path)}"
        )
    checkpoint = read_checkpoint(path)
    state, made = checkpoint.get("state_dict"), checkpoint.get("meta")
    if not isinstance(state, Mapping) or not isinstance(made, Mapping):
        state, made = {}, {}
    wrong = [name for name, kind in _KINDS.items() if not isinstance(made.get(name), kind)]
    if wrong:
        is_stage = STATE in checkpoint and any(str(key).startswith("prompts.") for key in state or ())
        fix = f"; to write it from this checkpoint: freqkd train PROMPT_CONFIG --resume {path}" if is_stage else ""
        raise CheckpointError(
            f"{path} is not a prompt file: it does not say {', '.join(wrong)}; name the prompts.pth that a prompt stage wrote"
            f"{fix}"
        )
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    file = PromptFile(str(path), tensors, {name: made[name] for name in _KINDS})
    try:
        check_levels(file.made["levels"])
        check_whole("num_levels", file.made["num_levels"], 1)
        for width in file.made["channels"]:
            check_whole("channels", width, 1, most=WIDEST)
        if file.made["gate"] is not False and file.made["gate"] not in GATE_CHOICES:
            raise ValueError(f"gate must be True, False or 'kan', got {file.made['gate']!r}")
        check_prompt_options(**{name: file.made[name] for name in ("num_prompts", "tokens_per", "depth", "score")})
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}; train the prompts again") from None
    sets, prompts = count_bands(file.made["depth"], file.made["tokens_per"]), file.made["num_prompts"]
    wanted = {f"prompts.{level}.tokens": (sets, prompts, width) for level, width in enumerate(file.made["channels"])}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith("prompts.")}
    if found != wanted or len(wanted) != file.made["num_levels"]:
        raise CheckpointError(
            f"{path} is damaged: it says that it holds {wanted}, and holds {found}; train the prompts again"
        )
    return file
