"""Arrow without pandas, whose import takes longer than the work of most commands."""

import sys
from importlib.abc import MetaPathFinder


class _WithoutPandas(MetaPathFinder):
    """Finds that pandas is not there."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("left out", name=name)


def leave_pandas_out() -> None:
    """Have Arrow look for pandas now and not find it. Else the first list that becomes an array, or the first time of
    day that is read, imports pandas, to see whether the list is a column of a data frame.

    Whoever asks for a data frame (`Table.to_pandas`) still gets one, since Arrow then looks again. What Arrow leaves
    undone until then is to take a column of a data frame for more than a list of its values; so this is for processes
    that have none: a command, or a worker.
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
