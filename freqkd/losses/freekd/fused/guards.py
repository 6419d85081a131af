"""Private functions of torch, each with a fall-back for versions that lack them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def keeps_graph() -> bool:
    """Whether the running backward pass keeps its graph, so that what was saved for it is needed again."""
    query = getattr(getattr(torch._C, "_autograd", None), "_get_current_graph_task_keep_graph", None)
    return query is None or bool(query())


def is_wrapped(x: Tensor) -> bool:
    """Whether a tensor belongs to a transform of `torch.func`, such as `vmap`, and must not outlive it."""
    transforms = getattr(torch._C, "_functorch", None)
    queries = [
        getattr(transforms, name, None)
        for name in ("is_functorch_wrapped_tensor", "is_batchedtensor", "is_legacy_batchedtensor")
    ]
    return any(query is None or bool(query(x)) for query in queries)


def bilinear_backward() -> Callable[..., Tensor] | None:
    """Return the gradient of bilinear resizing, a linear map; None where a matrix must take its place."""
    return getattr(torch.ops.aten, "upsample_bilinear2d_backward", None)
