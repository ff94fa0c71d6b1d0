"""A policy from a table of a study's configuration."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

__all__ = ["complete", "make"]


def complete(what: str, kinds: Mapping[str, Callable[..., Any]], options: Mapping[str, Any],
             default: str) -> dict[str, Any]:
    """Return `options` with the kind and all parameters that they leave to their defaults.

    Parameters
    ----------
    what : str
        Policies of which sort, for errors.
    kinds : mapping of str to callable
        Parameters are their keywords.
    options : mapping
    default : str
        Kind if none is named.

    Raises
    ------
    ValueError
        If `options` are no table, there is no such kind, or it has no such parameter or needs
        another.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"{what} must be a table like {{ kind = {default!r} }}, not {options!r}")
    given = dict(options)
    kind = given.pop("kind", default)
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"unknown {what} {kind!r}; choose from {', '.join(kinds)}")
    parameters = signature(kinds[kind]).parameters
    known = {name: parameter.default for name, parameter in parameters.items()
             if parameter.kind is Parameter.KEYWORD_ONLY}
    for name in given:
        if name not in known:
            raise ValueError(f"{what} {kind!r} has no {name!r}; it takes "
                             f"{', '.join(known) or 'nothing'}")
    for name, value in known.items():
        if value is Parameter.empty and name not in given:
            raise ValueError(f"{what} {kind!r} needs {name}")
    return {"kind": kind, **known, **given}


def make(what: str, kinds: Mapping[str, Callable[..., Any]], options: Mapping[str, Any],
         default: str, *given: Any) -> Any:
    """Return the policy that `options` describe: its `kind` and parameters.

    Parameters
    ----------
    what, kinds, options, default
        As of `complete`.
    *given
        What every policy is given first.

    Raises
    ------
    ValueError
        As `complete`, or if a parameter has a value that it cannot have.
    """
    parameters = complete(what, kinds, options, default)
    kind = parameters.pop("kind")
    try:
        return kinds[kind](*given, **parameters)
    except TypeError as error:
        raise ValueError(f"{what} {kind!r} cannot have {parameters!r}: {error}") from None
