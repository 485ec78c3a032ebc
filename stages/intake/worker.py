"""The process that reads recordings for another: one at a time, over a socket, until the other is gone.

Decoders are large C programs that read files from strangers. Here one may crash or hang, and takes one file with it.
"""

import importlib
import pickle
import socket
import sys

import fsspec

from stages.intake.examination import examine


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    for slow in ("av", "mutagen", "pyloudnorm", "scipy.signal", "soxr"):  # before the clock of the first file starts
        importlib.import_module(slow)
    with socket.socket(fileno=int(sys.argv[1])) as connection, connection.makefile("rwb") as stream:
        fsspec.config.conf.update(pickle.load(stream))
        pickle.dump("ready", stream)
        stream.flush()
        while True:
            try:
                uri, limits = pickle.load(stream)
            except (EOFError, ConnectionError):
                return
            pickle.dump(examine(uri, limits), stream)
            stream.flush()
