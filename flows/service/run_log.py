"""The log of a run: what Segue's modules warn of stands on Prefect's page too, not only on the worker's terminal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LAYERS = ("flows", "stages", "model", "schemas")
"""Loggers of the modules, whatever thread they log in: Prefect's own way wants each of them to know its run."""


class _Forwarding(logging.Handler):
    """Says what it is given in another log."""

    def __init__(self, log: "logging.Logger | logging.LoggerAdapter[logging.Logger]") -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, "%s", record.getMessage())


@contextmanager
def in_run_log(log: "logging.Logger | logging.LoggerAdapter[logging.Logger]") -> Iterator[None]:
    """Have what Segue's modules log within this block stand in the log of a run.

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
