"""Code that exists only for speed, apart from batch-invariant attention. Each part computes the same as its plain form,
and is tested against it. Attention to a cache on a CPU is the exception: decoding needs its equal bits.

One switch turns all kernels off. Within `with kernels.disabled():`, a network that is prepared for inference there, and
every call that would choose a kernel as it runs, uses torch's own operators. Outside, kernels are used wherever they
are faster. A network that was prepared earlier keeps its kernels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_enabled = True


def enabled() -> bool:
    """Return whether kernels may be used. No other code reads the switch."""
    return _enabled


@contextmanager
def disabled() -> Iterator[None]:
    """Use the plain forms within the context, in every thread: for tests, and to find out whether a kernel is wrong."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before
