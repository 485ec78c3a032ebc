"""The log of a run: warnings of Segue's modules appear on Prefect's page too, not only on the worker's terminal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LAYERS = ("flows", "stages", "model", "schemas")
"""The loggers of Segue's modules. They are forwarded from any thread; Prefect's own way needs each thread to know its
run."""


class _Forwarding(logging.Handler):
    """Handler that repeats its records in another log."""

    def __init__(self, log: "logging.Logger | logging.LoggerAdapter[logging.Logger]") -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, "%s", record.getMessage())


@contextmanager
def in_run_log(log: "logging.Logger | logging.LoggerAdapter[logging.Logger]") -> Iterator[None]:
    """Repeat in a run's log what Segue's modules log within this block.

    Args:
        log: the run's log, which knows its run.
    """
    handler = _Forwarding(log)
    loggers = [logging.getLogger(layer) for layer in LAYERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
