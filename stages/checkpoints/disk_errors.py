"""Errors of the disk while weights are written, turned into `OSError` with the system's error number.

safetensors and tokenizers give the system's error as text only, and torch raises the error that followed it.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust write an error of the operating system."""


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn another library's error into an `OSError` if the disk caused it; for a `with` block or as a decorator.

    Raises:
        OSError: the disk is full (ENOSPC), a file is larger than allowed (EFBIG), or another error of the system.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # these libraries' errors share no base class
        number = _error_number(error)
        if number is None:
            raise
        raise OSError(number, f"{os.strerror(number)}, while weights were written") from error


def _error_number(error: Exception) -> int | None:
    """Return the system's error number behind an error; None where it has another cause."""
    if match := ERROR_NUMBER.search(str(error)):
        return int(match[1])
    while cause := error.__cause__ or error.__context__:
        if isinstance(cause, OSError):
            return cause.errno
        if not isinstance(cause, Exception):
            break
        error = cause
    return None
