"""Sampled shape checks: the first calls of each function in a test are checked, and ever fewer of the later ones.

pytest's option `--jaxtyping-packages` makes every function of a package check the shapes of its signature in every
call; a loop over steps and layers makes thousands of the same calls, and two thirds of its time would be spent on
checks.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping

FIRST = 8
"""Number of calls of a function that are checked at the beginning of a test; after them, only calls whose number is a
power of two are checked."""

_jaxtyped = jaxtyping.jaxtyped
_test = 0


def begin_test() -> None:
    """Check the first calls of every function again."""
    global _test
    _test += 1


def sampled(plain: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is the checked one in some of its calls, and the plain one in all others."""
    test, calls = -1, 0

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, calls
        if test != _test:
            test, calls = _test, 0
        calls += 1
        return (checked if calls <= FIRST or calls & (calls - 1) == 0 else plain)(*args, **kwargs)

    return call


def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """The decorator that pytest's option puts before every function and class, instead of jaxtyping's own."""
    check = _jaxtyped(typechecker=typechecker)

    def decorate(member: Any) -> Any:
        if not inspect.isclass(member):
            return sampled(member, check(member))
        plain = member.__init__  # checked for a dataclass
        check(member)
        if member.__init__ is not plain:
            member.__init__ = sampled(plain, member.__init__)
        return member

    return decorate


def sample_shapes() -> None:
    """Make packages that are imported from now on check some of their calls."""
    jaxtyping.jaxtyped = jaxtyped  # type: ignore[assignment]
