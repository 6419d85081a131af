"""Checkpoint hook: whole files, and an exact resume."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, broadcast, is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook

from freqkd.models import Distiller
from freqkd.models.state_dict import to_student_keys
from freqkd.utils.checkpoints import STATE, check_resumable
from freqkd.utils.files import DRAFT, write_whole
from freqkd.utils.patches import replaced
from freqkd.utils.processes import unwrapped
from freqkd.utils.randomness import get_random_state, set_random_state

_OUTDATED = "outdated_ckpt_ids"


class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's `CheckpointHook`, with the same arguments, whole files and an exact resume.

    - A checkpoint is written to a draft and renamed when it is whole; only then are older ones deleted, so that a kill or a
      full disk leaves the last whole one. (MMEngine deletes first and writes in place.)
    - `checkpoint['freqkd']` holds the random states of every process and the hashes of teacher and prompts.
    - On resume, a checkpoint without the prompts, aligns and measured ratios of this training, or with another teacher or
      other prompts, is refused, where MMEngine would only warn; and the random states are restored, so that with
      `num_workers=0` the resumed training equals the uninterrupted one to the bit. Worker processes start again from
      their seeds, see docs/reliability.md; so does everything with another number of processes than before.
    - All processes take the buffers of the first one, which are saved: the statistics of batch normalisation would
      otherwise differ between processes.
    - Validation does not change the training's random numbers, because a resumed training does not repeat it.

    `freqkd train` uses it in place of MMEngine's.

    Config::

        default_hooks = dict(checkpoint=dict(type='freqkd.CheckpointHook', interval=1, max_keep_ckpts=1))

    Raises:
        CheckpointError: on resume, see above.
    """

    file_backend: Any
    _random_states: list[Any] | None = None  # those of all processes, for the checkpoint that is being written
    _resumed: list[Any] | None = None  # those of the checkpoint that is resumed
    _before_val: dict[str, Any] | None = None

    def before_train(self, runner: Any) -> None:
        """Delete the drafts that a kill left, and restore the random states of a resumed training."""
        super().before_train(runner)
        if is_main_process() and _is_local(self.out_dir):
            for draft in Path(self.out_dir).glob(f".*{DRAFT}"):
                draft.unlink(missing_ok=True)
        self._remove_outdated(runner)
        states, self._resumed = self._resumed, None
        if states is None:
            return
        if len(states) != runner.world_size:
            runner.logger.warning(
                f"the checkpoint is of {len(states)} processes, this training has {runner.world_size}: its "
                "random numbers start again from the seed"
            )
            return
        loop = runner.train_loop
        if hasattr(loop, "dataloader_iterator"):
            loop.dataloader_iterator = _Resumed(loop, states[runner.rank])
        else:
            set_random_state(states[runner.rank])

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with this training before its weights are loaded."""
        if not getattr(runner, "_resume", False):
            return
        check_resumable(unwrapped(runner.model), checkpoint)
        self._resumed = checkpoint.get(STATE, {}).get("random_states")

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add random states and the hashes of teacher and prompts; name a sharded distiller's weights as the student does."""
        network = unwrapped(runner.model)
        if isinstance(network, Distiller):
            to_student_keys(network, checkpoint["state_dict"], "", None)
        identity = network.identity() if hasattr(network, "identity") else {}
        checkpoint[STATE] = dict(random_states=self._random_states or [get_random_state()], identity=identity)

    def before_val(self, runner: Any) -> None:
        """Save the training's random state."""
        self._before_val = get_random_state()

    def after_val(self, runner: Any) -> None:
        """Restore the training's random state."""
        if self._before_val is not None:
            set_random_state(self._before_val)
        self._before_val = None

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        """Write a checkpoint, name it in `last_checkpoint`, then delete the outdated ones."""
        hub = runner.message_hub
        if self.max_keep_ckpts > 0 and not (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            outdated = list(hub.runtime_info.get(_OUTDATED, ()))
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.keep_ckpt_ids.popleft())
            self.keep_ckpt_ids.append(step)
            hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
            hub.update_info(_OUTDATED, outdated)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        hub.update_info("last_ckpt", self.last_ckpt)
        self._random_states = all_gather_object(self._before_val or get_random_state())
        if runner.world_size > 1:
            for buffer in unwrapped(runner.model).buffers():
                broadcast(buffer)
        self._save_whole(
            runner.save_checkpoint,
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            with write_whole(Path(runner.work_dir, "last_checkpoint")) as file:
                file.write(str(self.last_ckpt).encode())
        self._remove_outdated(runner)

    def _save_best_checkpoint(self, runner: Any, metrics: Any) -> None:
        """Write the best checkpoint whole before the previous best one is deleted."""
        self._random_states = all_gather_object(self._before_val or get_random_state())
        save = partial(self._save_whole, runner.save_checkpoint)
        with self._deletions_last(), replaced(runner, "save_checkpoint", save):
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _deletions_last(self) -> Iterator[None]:
        backend, removed = self.file_backend, []

        class Later:
            """A file backend that defers deletions."""

            def __getattr__(self, name: str) -> Any:
                if name in ("remove", "rmtree"):
                    return lambda path: removed.append((name, path))
                return getattr(backend, name)

        self.file_backend = Later()
        try:
            yield
        finally:
            self.file_backend = backend
        best = {getattr(self, "best_ckpt_path", None), *getattr(self, "best_ckpt_path_dict", {}).values()}
        for name, path in removed:
            if path not in best:
                with suppress(FileNotFoundError):
                    getattr(backend, name)(path)

    @staticmethod
    def _save_whole(save: Callable[..., None], out_dir: str, filename: str, *args: Any, **options: Any) -> None:
        """Write to a draft in the same folder and rename it; backends other than disks write whole files themselves."""
        if not _is_local(out_dir):
            save(out_dir, filename, *args, **options)
            return
        draft, target = Path(out_dir, f".{filename}{DRAFT}"), Path(out_dir, filename)
        try:
            save(out_dir, draft.name, *args, **options)
            barrier()  # every process may have written a part
            if is_main_process():
                _flush(draft)
                os.replace(draft, target)
                _flush(target.parent)
        except BaseException:
            if draft.is_file():
                draft.unlink(missing_ok=True)
            raise

    def _remove_outdated(self, runner: Any) -> None:
        """Delete the outdated checkpoints, whose successors are written."""
        outdated = runner.message_hub.runtime_info.get(_OUTDATED)
        if not outdated:
            return
        for step in outdated if is_main_process() else ():
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)
        runner.message_hub.update_info(_OUTDATED, [])


class _Resumed:
    """The iterator of a resumed iteration loop: it skips the batches seen before, then restores the random state.

    Skipped batches and a new iterator draw random numbers that the uninterrupted training did not draw.
    """

    def __init__(self, loop: Any, state: Any) -> None:
        self.loop, self.state, self.inner = loop, state, loop.dataloader_iterator
        # Some versions of MMEngine skip by `skip_iter`, others by drawing the batches.
        skips = not hasattr(self.inner, "skip_iter") and not getattr(loop, "fast_forward_on_resume", False)
        self.left = loop.iter if skips else 0

    def __iter__(self) -> _Resumed:
        return self

    def skip_iter(self, num_iters: int) -> None:
        self.inner.skip_iter(num_iters)

    def __next__(self) -> Any:
        if self.left:
            self.left -= 1
            return next(self.inner)
        if hasattr(self.inner, "_ensure_iterator"):
            self.inner._ensure_iterator()
        self.loop.dataloader_iterator = self.inner
        set_random_state(self.state)
        return next(self.inner)


def _is_local(folder: Any) -> bool:
    return "://" not in str(folder)


def _flush(path: Path) -> None:
    """Flush a file or folder to the disk, where the file system supports it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
