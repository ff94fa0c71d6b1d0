"""A policy from a table of a study's configuration."""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["make"]


def make(what: str, kinds: Mapping[str, Callable[..., Any]], options: Mapping[str, Any],
         default: str, *given: Any) -> Any:
    """Return the policy that `options` describe: its `kind` and parameters.

    Parameters
    ----------
    what : str
        Policies of which sort, for errors.
    kinds : mapping of str to callable
    options : mapping
    default : str
        Kind if none is named.
    *given
        What every policy is given first.

    Raises
    ------
    ValueError
        If there is no such kind, or it has no such parameter.
    """
    parameters = dict(options)
    kind = parameters.pop("kind", default)
    if kind not in kinds:
        raise ValueError(f"unknown {what} {kind!r}; choose from {', '.join(kinds)}")
    try:
        return kinds[kind](*given, **parameters)
    except TypeError as error:
        raise ValueError(f"{what} {kind!r}: {error}") from None
