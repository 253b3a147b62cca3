"""Whether a dataclass is given values of its fields' types: by a recipe, or by another's config.json."""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from t5x_code.errors import UserError


def checked(configurable: type) -> Callable[..., Any]:
    """A dataclass as a function of its fields that refuses values of the wrong type.

    Returns:
        A function with the dataclass' name, signature and documentation, as gin reads them.
    """
    hints = typing.get_type_hints(configurable)
    signature = inspect.signature(configurable)

    @functools.wraps(configurable, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        for field, value in signature.bind_partial(*args, **kwargs).arguments.items():
            if not fits(value, hints[field]):
                wanted = inspect.formatannotation(hints[field])
                raise UserError(f"{configurable.__name__}.{field} is {value!r}: it must be of type {wanted}")
        return configurable(*args, **kwargs)

    make.__signature__ = signature
    del make.__wrapped__  # gin would look through it
    return make


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type. Whole numbers are floats too; True and False are no numbers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits_one_of_several(value, choice) for choice in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        of_one = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(of_one) and all(map(fits, value, of_one))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint is Any or origin is typing.Literal:
        return True  # the class itself names the choices
    return isinstance(value, origin or hint)


def _fits_one_of_several(value: Any, hint: Any) -> bool:
    """As `fits`, for a choice beside other types: only the type can say then that a word is none of them."""
    is_choice = typing.get_origin(hint) is typing.Literal
    return value in typing.get_args(hint) if is_choice else fits(value, hint)
