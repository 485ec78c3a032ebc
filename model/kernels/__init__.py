"""Code that exists only for speed, except attention to a cache on a CPU. Each part computes what its plain form does,
and is tested against it.

One switch turns all of it off. Inside `with kernels.disabled():` a network that is prepared for inference, and every
call that would choose a kernel as it runs, computes by torch's own operators. Outside, kernels are taken wherever they
are faster. A network that was prepared before keeps the kernels that it was given.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_enabled = True


def enabled() -> bool:
    """Return whether kernels may be taken; the only reader of the switch."""
    return _enabled


@contextmanager
def disabled() -> Iterator[None]:
    """Compute by the plain forms inside, in every thread: for tests, and to find out whether a kernel is at fault."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before
