"""Arrow without pandas, whose import takes longer than the work of most commands."""

import sys
from importlib.abc import MetaPathFinder


class _WithoutPandas(MetaPathFinder):
    """Import finder that reports pandas as not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("left out", name=name)


def leave_pandas_out() -> None:
    """Make Arrow look for pandas now and not find it. Otherwise Arrow imports pandas when it first converts a list to
    an array, or first reads a time of day, to check whether the list is a column of a data frame.

    Asking for a data frame (`Table.to_pandas`) still works, since Arrow then looks again. Until then Arrow treats a
    column of a data frame as a plain list of values; so this is only for processes that use no data frames: a command
    or a worker.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    without = _WithoutPandas()
    sys.meta_path.insert(0, without)
    try:
        pa.array([None])
    finally:
        sys.meta_path.remove(without)
