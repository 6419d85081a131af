"""The checkpoint that `--resume` continues from."""

import pytest
import torch
from mmengine.config import Config

from freqkd.apis.preflight import checkpoint
from freqkd.utils.checkpoints import CheckpointError


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_alone_names_damaged_files(rank, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "get_rank", lambda: rank)
    state = dict(state_dict=dict(weight=torch.ones(2)), optimizer={}, message_hub={}, meta={})
    torch.save(state, tmp_path / "iter_1.pth")
    for step in (2, 3):
        (tmp_path / f"iter_{step}.pth").write_bytes(b"cut")
    path, found = checkpoint.find_resumable(Config(dict(work_dir=str(tmp_path))))
    assert path == str(tmp_path / "iter_1.pth")
    assert torch.equal(found["state_dict"]["weight"], torch.ones(2))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (2 if rank == 0 else 0)
    assert all(line.startswith(f"--resume continues from {path}, because checkpoint {tmp_path}") for line in said)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_reaches_every_process(rank, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "get_rank", lambda: rank)
    (tmp_path / "iter_1.pth").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="cannot resume: no checkpoint in"):
        checkpoint.find_resumable(Config(dict(work_dir=str(tmp_path))))
