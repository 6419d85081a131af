"""A network of two convolutions, its teacher on disk, and trainings of a few milliseconds a step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from freqkd.registry import DATASETS, MODELS


class Spoilt(torch.autograd.Function):
    """The identity; the first number of its gradient is replaced by `value`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: float) -> torch.Tensor:
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0].clone()
        gradient.view(-1)[0] = ctx.value
        return gradient, None


def is_bad(at: Any, until: Any = None) -> bool:
    """Whether the Runner is at one of the steps that must fail, counted from 1."""
    step = MessageHub.get_current_instance().runtime_info.get("iter")
    return at is not None and step is not None and at <= step + 1 <= (at if until is None else until)


@MODELS.register_module(name="BadLoss", force=True)
class BadLoss(nn.Module):
    """The mean squared error; from step `at` to `until`, the loss or the gradient of a map is replaced by `value`.

    `what` fails in the process `rank`: "loss", "gradient" (of map `level`), or "raise".
    """

    def __init__(
        self,
        at: Any = None,
        until: Any = None,
        what: str = "loss",
        value: Any = "nan",
        level: int = 0,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.at, self.until, self.what, self.value, self.level = at, until, what, float(value), level
        self.rank = rank

    def forward(self, student: Any, teacher: Any) -> Any:
        maps = list(student)
        bad = is_bad(self.at, self.until) and get_rank() == self.rank
        if bad and self.what == "raise":
            raise RuntimeError("out of luck")
        if bad and self.what == "gradient":
            maps[self.level] = Spoilt.apply(maps[self.level], self.value)
        loss = sum((feature - other).square().mean() for feature, other in zip(maps, teacher, strict=True))
        return loss * self.value if bad and self.what == "loss" else loss


class ToyNeck(nn.Module):
    """Two maps of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.conv(x)
        return x, nn.functional.avg_pool2d(x, 2)


@MODELS.register_module(name="Toy", force=True)
class Toy(BaseModel):
    """Pixels to maps, with batch norm and dropout; its task is to give zeros, and fails at step `at`."""

    def __init__(self, at: Any = None, what: str = "loss", value: Any = "nan", data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor or dict(type="ImgDataPreprocessor"))
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
        self.neck = ToyNeck()
        self.head = nn.Conv2d(4, 1, 1)
        self.with_neck = True
        self.at, self.what, self.value = at, what, float(value)

    def extract_feat(self, inputs: torch.Tensor) -> Any:
        return self.neck(self.backbone(inputs))

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        maps = self.extract_feat(inputs if isinstance(inputs, torch.Tensor) else torch.stack(list(inputs)))
        if mode != "loss":
            return maps
        out = self.head(maps[0])
        if is_bad(self.at) and self.what == "raise":
            raise RuntimeError("out of luck")
        if is_bad(self.at) and self.what == "gradient":
            out = Spoilt.apply(out, self.value)
        loss = out.square().mean()
        return dict(loss_task=loss * self.value if is_bad(self.at) and self.what == "loss" else loss)


@DATASETS.register_module(name="ToyData", force=True)
class ToyData(Dataset):
    """Eight random images; those of `bad` hold an infinite pixel."""

    metainfo = dict(classes=("a",))

    def __init__(self, bad: Any = ()) -> None:
        self.pipeline = SimpleNamespace(transforms=("Nothing()",))
        self.images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        self.images[list(bad), 0, 0, 0] = torch.inf

    def full_init(self) -> None:
        """Do nothing."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = BaseDataElement(metainfo=dict(img_path=f"image{index}.jpg", img_shape=(8, 8)))
        return dict(inputs=self.images[index], data_samples=sample)


@HOOKS.register_module(name="NoteStates", force=True)
class NoteStates(Hook):
    """Keeps the state of the model before each step, and at the end."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        self.states.append({key: value.clone() for key, value in runner.model.state_dict().items()})

    def after_train(self, runner: Any) -> None:
        self.before_train_iter(runner)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return list(one) == list(other) and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture
def toy(fresh: None, tool: Any, tmp_path: Path) -> SimpleNamespace:
    """`model(**terms)`; `config(model, *hooks)`; `run(config)`: the Runner, with `states` and `error`; `same(state, state)`."""
    source, checkpoint = tmp_path / "teacher.py", tmp_path / "teacher.pth"
    torch.manual_seed(5)
    Config(dict(default_scope="mmengine", model=dict(type="freqkd.Toy"))).dump(source)
    torch.save(dict(state_dict=Toy().state_dict()), checkpoint)

    def model(student: Any = None, **terms: Any) -> dict[str, Any]:
        terms = {
            name: dict(dict(type="freqkd.DistillTerm", student_tap="neck"), **term) for name, term in terms.items()
        }
        return dict(
            type="freqkd.Distiller",
            student=dict(dict(type="freqkd.Toy"), **(student or {})),
            teacher=dict(config=str(source), checkpoint=str(checkpoint)),
            terms=terms,
        )

    def config(network: Any, *hooks: Any, iters: int = 4, name: str = "run", bad: Any = (), **changes: Any) -> Config:
        data = dict(batch_size=2, num_workers=0, dataset=dict(type="freqkd.ToyData", bad=list(bad)))
        data.update(changes.pop("data", {}))
        optimizer = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9))
        optimizer.update(changes.pop("optim_wrapper", {}))
        return Config(
            dict(
                default_scope="mmengine",
                model=network,
                work_dir=str(tmp_path / name),
                train_dataloader=dict(
                    **data, sampler=dict(type="InfiniteSampler"), collate_fn=dict(type="pseudo_collate")
                ),
                train_cfg=dict(by_epoch=False, max_iters=iters),
                optim_wrapper=optimizer,
                default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=10000, by_epoch=False)),
                custom_hooks=[dict(type="mmengine.NoteStates"), *hooks],
                randomness=dict(seed=0),
                experiment_name=name,
                log_level="WARNING",
                **changes,
            )
        )

    def run(config: Config) -> Any:
        runner = Runner.from_cfg(config)
        runner.error = None
        try:
            runner.train()
        except (ValueError, RuntimeError) as error:
            runner.error = error.with_traceback(None)  # whose frames would keep the step alive
        notes = [hook.states for hook in runner.hooks if isinstance(hook, NoteStates)]
        runner.states = notes[0] if notes else []
        return runner

    return SimpleNamespace(model=model, config=config, run=run, same=same, folder=tmp_path)
