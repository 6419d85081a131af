"""Check that the gradient of a term reaches the student's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn


def reaches(loss: Tensor, parameters: Iterable[Tensor]) -> bool:
    """Whether the graph of a loss leads to any of some parameters; nothing is computed.

    >>> import torch
    >>> layer, align = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> images = torch.zeros(1, 2)
    >>> reaches(align(layer(images)).sum(), layer.parameters())
    True
    >>> reaches(align(layer(images).detach()).sum(), layer.parameters())
    False
    >>> view = layer.weight.view(2, 2)
    >>> reaches((images @ view).sum(), [view])
    True
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    wanted = {id(parameter) for parameter in trained}
    # While a model runs, FullyShardedDataParallel has views of one long parameter in the place of its parameters.
    views = {parameter.grad_fn for parameter in trained} - {None}
    if id(loss) in wanted:
        return True
    waiting = [loss.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node in views or id(getattr(node, "variable", None)) in wanted:
            return True
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return False


def check_gradient(loss: Tensor, student: nn.Module, path: str, maps: Mapping[str, Sequence[Tensor]]) -> bool:
    """Check that a term trains the student, and not its align alone.

    Args:
        loss: the term's loss.
        student: the network.
        path: the term's tap in it.
        maps: all of the student's maps that the term has, by path.

    Returns:
        Whether it was found out: a loss without a graph, of a batch that has nothing for the term, tells nothing.

    Raises:
        ValueError: no parameter of the student is in the graph of the loss.
    """
    carry = any(tensor.requires_grad for tensors in maps.values() for tensor in tensors)
    if carry and not loss.requires_grad:
        return False
    if reaches(loss, student.parameters()):
        return True
    start = f"no gradient reaches the student from its tap {path!r}, so that this term would train its align at most: "
    if carry:
        raise ValueError(
            f"{start}the adapter or the loss detaches the student's maps; compute the loss of maps that keep their graph"
        )
    raise ValueError(
        f"{start}the parameters before it are frozen (frozen_stages, requires_grad=False), or it runs without a graph "
        "(torch.no_grad, a checkpoint with use_reentrant=True); tap a later module, or train those parameters"
    )


def untrained_levels(maps: Sequence[Tensor]) -> list[int]:
    """Return the indices of the maps that carry no gradient, where others do.

    >>> import torch
    >>> untrained_levels([torch.zeros(1), torch.zeros(1, requires_grad=True)])
    [0]
    """
    without = [index for index, tensor in enumerate(maps) if not tensor.requires_grad]
    return without if len(without) < len(maps) else []
