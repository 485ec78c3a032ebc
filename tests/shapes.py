"""Shapes of the calls that are checked: of each function the first ones of a test, and ever fewer of those that follow.

pytest's option `--jaxtyping-packages` has every function of a package check the shapes that its signature states, in
every call; a loop over steps and layers makes thousands of the same, and two thirds of its time would go there.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping

FIRST = 8
"""How many calls of a function are checked at the beginning of a test; then those whose number is a power of two."""

_jaxtyped = jaxtyping.jaxtyped
_test = 0


def begin_test() -> None:
    """Check the first calls of every function again."""
    global _test
    _test += 1


def sampled(plain: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is the checked one in some of its calls, and the plain one in all others."""
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
    """What pytest's option puts before every function and class, instead of jaxtyping's own."""
    check = _jaxtyped(typechecker=typechecker)

    def decorate(member: Any) -> Any:
        if not inspect.isclass(member):
            return sampled(member, check(member))
        plain = member.__init__  # which a dataclass has checked
        check(member)
        if member.__init__ is not plain:
            member.__init__ = sampled(plain, member.__init__)
        return member

    return decorate


def sample_shapes() -> None:
    """Have the packages that are imported from now on check some of their calls."""
    jaxtyping.jaxtyped = jaxtyped  # type: ignore[assignment]
