"""The process that does calls for another: one at a time, over a socket, until the other is gone.

Decoders are large C programs that read files from strangers. Here one may crash or hang, and takes one file with it.
"""

import importlib
import pickle
import socket
import sys

import fsspec


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    with socket.socket(fileno=int(sys.argv[1])) as connection, connection.makefile("rwb") as stream:
        start = pickle.load(stream)
        fsspec.config.conf.update(start.filesystems)
        for name in start.modules:
            importlib.import_module(name)
        pickle.dump("ready", stream)
        stream.flush()
        while True:
            try:
                call = pickle.load(stream)
            except (EOFError, ConnectionError):
                return
            pickle.dump(call.outcome(), stream, protocol=pickle.HIGHEST_PROTOCOL)
            stream.flush()
