"""A PostgreSQL server of a test's own, if its programs are installed: on the loopback, with a password."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = next(
    (
        Path(found).resolve().parent
        for found in (
            *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True),  # not on Debian's path
            shutil.which("initdb"),
        )
        if found
    ),
    None,
)
"""The folder of `initdb` and `pg_ctl`; None if they are not installed."""

USER = "postgres" if os.getuid() == 0 else None
"""The user of the server, because it refuses to run as root. None is the user of the tests."""


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a server whose files are removed with it, and yield the URL of its database in the form of `segue up`."""
    # Not in pytest's folders: if the tests run as root, these are closed to the user of the server.
    with tempfile.TemporaryDirectory(prefix="segue-postgresql-") as name:
        folder, password = Path(name), secrets.token_hex(16)
        (folder / "password").write_text(password)
        if USER is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, USER, USER)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        data = ["--pgdata", str(folder / "data")]
        with_password = ["--auth", "scram-sha-256", "--pwfile", str(folder / "password")]
        _run(folder, "initdb", [*data, "--encoding", "UTF8", "--username", "prefect", *with_password, "--no-sync"])
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        control = [*data, "--wait", "--timeout", "120"]
        _run(folder, "pg_ctl", ["start", *control, "--log", str(folder / "log"), "--options", settings])
        try:
            yield f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/postgres"
        finally:
            _run(folder, "pg_ctl", ["stop", *control, "--mode", "immediate"])


def _run(folder: Path, program: str, words: Sequence[str]) -> None:
    assert PROGRAMS is not None
    done = subprocess.run(
        [str(PROGRAMS / program), *words],
        user=USER,
        group=USER,
        extra_groups=[] if USER else None,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the server
        stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
