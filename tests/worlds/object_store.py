"""An object store in memory with S3's protocol, reached like a user's: by environment variables."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem


@contextmanager
def object_store(key: str = "test", secret: str = "test") -> Iterator[S3FileSystem]:
    """Serve on the loopback and yield the filesystem; other filesystems made inside the block reach the same store.

    Buckets belong to the process: what one of these stores holds, the next one holds too.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        S3FileSystem.clear_instance_cache()
        try:
            yield S3FileSystem()
        finally:
            S3FileSystem.clear_instance_cache()
            server.stop()
