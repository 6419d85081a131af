"""Checks of the parts of a config before they are built."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from mmengine.registry import Registry

from freqkd.registry import MODELS
from freqkd.utils.checks import did_you_mean, nearest
from freqkd.utils.errors import worded
from freqkd.utils.slots import describe

T = TypeVar("T")


def check_type(name: str, given: Any, kind: type, why: str) -> None:
    """Raise ValueError where a `type` names anything but `kind`, the only class that can stand there; None stands for it.

    >>> check_type("number.type", "freqkd.complex", complex, "it has two parts")
    >>> check_type("number.type", "freqkd.float", complex, "it has two parts")
    Traceback (most recent call last):
    ...
    ValueError: number.type must be 'freqkd.complex', got 'freqkd.float'; it has two parts
    """
    word = kind.__name__
    if given in (None, kind, word, f"freqkd.{word}", f"{kind.__module__}.{word}"):
        return
    raise ValueError(f"{name} must be 'freqkd.{word}', got {given!r}; {why}")


def check_options(name: str, kind: Callable[..., Any], options: Collection[str]) -> None:
    """Raise ValueError where `kind` does not take one of the options, or needs one that is not there.

    >>> check_options("number", complex, ["reel"])
    Traceback (most recent call last):
    ...
    ValueError: number takes real, imag, got 'reel'; did you mean 'real'?
    """
    parameters = inspect.signature(kind).parameters.values()
    known = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
        for option in options:
            if option not in known:
                hint = did_you_mean(option, known)
                raise ValueError(f"{name} takes {', '.join(known) or 'no options'}, got {option!r}{hint}")
    lacking = [one.name for one in parameters if one.name in known and one.default is one.empty]
    lacking = [one for one in lacking if one not in options]
    if lacking:
        raise ValueError(f"{name} needs {', '.join(f'{one}=' for one in lacking)}, got {', '.join(options) or 'none'}")


def make(name: str, kind: type[T], options: Mapping[str, Any] | None) -> T | None:
    """Build `kind` of its options, see `check_options`; None stays None."""
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise ValueError(f"{name} must be a dict of options, got {options!r}")
    check_options(name, kind, options)
    with worded(name, built=True):
        return kind(**options)


def unknown_type(slot: str, word: str, registry: Registry, what: str = "") -> ValueError:
    """Make the error of a type that no registry knows.

    >>> str(unknown_type("loss", "freqkd.MSELos", MODELS))[:60]
    "loss.type must be a registered model, got 'freqkd.MSELos'; t"
    """
    close = nearest(word.split(".")[-1], _names(registry))
    hint = f"the nearest names are {', '.join(map(repr, close))}" if close else "no name is like it"
    return ValueError(
        f"{slot}.type must be a registered {what or registry.name}, got {word!r}; {hint}; where it is one of your own, name "
        "its module in custom_imports"
    )


def _names(registry: Registry) -> list[str]:
    """All names of a registry and those below it, each with its scope, as a config may name it."""
    own = [name if registry.scope == "mmengine" else f"{registry.scope}.{name}" for name in registry.module_dict]
    return [*own, *(name for child in registry.children.values() for name in _names(child))]


def part_class(name: str, config: Any) -> Any:
    """Return the class of a part of a config, or of an instance.

    Raises:
        ValueError: no registry knows the type.
    """
    if not isinstance(config, Mapping):
        return type(config)
    word = config.get("type")
    if word is None:
        raise ValueError(
            f"{name} must be a dict with a type, got {describe(config)}; name the class: type='freqkd.NAME'"
        )
    with worded(name), MODELS.switch_scope_and_registry(config.get("_scope_")) as registry:
        kind = registry.get(word) if isinstance(word, str) else word
    if kind is None and isinstance(word, str):
        raise unknown_type(name, word, MODELS)
    return kind


def build_part(name: str, config: Any) -> Any:
    """Build a loss, an align or an adapter of its config; an instance is taken as it is.

    Raises:
        ValueError: an option that the named class does not take, lacks, or cannot be built with.
    """
    if not isinstance(config, Mapping):
        return config
    kind, word = part_class(name, config), config.get("type")
    if inspect.isclass(kind):
        options = [key for key in config if key not in ("type", "_scope_")]
        check_options(f"{name}=dict(type={getattr(word, '__name__', word)!r}, ...)", kind, options)
    with worded(name, built=True):
        return MODELS.build(copy.deepcopy(dict(config)))
