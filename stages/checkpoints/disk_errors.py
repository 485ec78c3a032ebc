"""What a disk refuses while weights are written, as the error that it is: `OSError` with its number.

safetensors and tokenizers tell it in words alone, and torch tells what it tripped over next.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")
"""By which libraries written in Rust tell an error of the operating system."""


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn another library's error for what the disk refused into an `OSError`; around a block, or a whole function.

    Raises:
        OSError: the disk is full (ENOSPC), a file is larger than it may be (EFBIG), or whatever else there was.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # these libraries have no common kind
        number = _error_number(error)
        if number is None:
            raise
        raise OSError(number, f"{os.strerror(number)}, while weights were written") from error


def _error_number(error: Exception) -> int | None:
    """Return the operating system's number of an error, if that is what is behind another."""
    if match := ERROR_NUMBER.search(str(error)):
        return int(match[1])
    while cause := error.__cause__ or error.__context__:
        if isinstance(cause, OSError):
            return cause.errno
        if not isinstance(cause, Exception):
            break
        error = cause
    return None
