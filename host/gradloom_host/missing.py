"""Import what only an optional extra installs, or say which extra that is."""

import importlib
from types import ModuleType

__all__ = ["MissingExtraError", "require"]


class MissingExtraError(ImportError):
    """A module that an optional extra installs is absent."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module that an extra installs.

    Parameters
    ----------
    module
        Dotted name, as in an import statement.
    extra
        The extra of the ``gradloom`` distribution that installs it.

    Returns
    -------
    ModuleType
        The module itself, also for a dotted name.

    Raises
    ------
    MissingExtraError
        The module is not installed. A module that is installed but fails to import raises its
        own error, since installing the extra would not cure it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(
            f"Module {module!r} is not installed; run: pip install 'gradloom[{extra}]'",
            name=module,
        ) from error
