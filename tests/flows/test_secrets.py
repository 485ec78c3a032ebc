"""Secrets of the environment and of blocks are shown nowhere: a run is given canaries, and all it leaves is searched
for them."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from tests.worlds.command_line import make_recordings
from tests.worlds.object_store import object_store

KEY = "canaryAKIA2f9d71c0"
SECRET = "canary-secret-5b1e7d9a44c2"
TOKEN = "canary-token-c83f20b6e1d5"
ROOT = Path(__file__).resolve().parents[2]

RUN = """
import json, sys
from pathlib import Path
import flows.single
settings = json.loads(sys.argv[1])
flows.single.ingest(settings=settings, recipe={"preset": "miniature"})
print("the first one ended well")
for number in range(6):
    (Path(settings["source"]) / f"broken{number}.wav").write_bytes(b"RIFF")
flows.single.ingest(settings=settings, recipe={"preset": "miniature"})
"""
"""A program of two runs: one that succeeds, and one that fails and sends a message."""


@pytest.fixture
def moto():
    """An object store whose keys are canaries."""
    with object_store(KEY, SECRET) as filesystem:
        filesystem.mkdir("secrets")
        yield {name: os.environ[name] for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}


@pytest.fixture
def receiver():
    """The address of a web server on the loopback that receives messages, and the paths of these."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", paths
    server.shutdown()
    server.server_close()


def left_on_disk(folder: Path) -> bytes:
    """The contents of all files of a folder, Prefect's encryption key and encrypted blocks included."""
    return b"\0".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def test_secrets_of_a_run_are_in_no_log_artifact_parameter_file_of_the_store_or_database(
    on_server, moto, receiver, tmp_path
):
    from prefect.blocks.webhook import Webhook

    address, paths = receiver
    Webhook(url=f"{address}/{TOKEN}").save("canary", overwrite=True)
    source = make_recordings(tmp_path / "source", 2)
    settings = {"store": "s3://secrets/store", "source": str(source), "workers": 1, "on_failure": "webhook/canary"}
    ran = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(settings)],
        env=on_server.environment | moto | {"PREFECT_LOGGING_LEVEL": "DEBUG"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode != 0
    assert "the first one ended well" in ran.stdout, ran.stderr
    assert paths == [f"/{TOKEN}"]
    files = S3FileSystem().find("secrets")
    assert any("/tracks/" in file for file in files)
    seen = {
        "terminals": (ran.stdout + ran.stderr).encode(),
        "the store": b"\0".join(file.encode() + S3FileSystem().cat_file(file) for file in files),
        "the server's folder, logs and database": left_on_disk(Path(on_server.environment["PREFECT_HOME"])),
    }
    assert b"segue-run" in seen["the server's folder, logs and database"]  # the right folder was searched
    assert b"ingest" in seen["terminals"]
    for place, content in seen.items():
        for canary in (KEY, SECRET, TOKEN):
            assert canary.encode() not in content, f"{canary} is seen in {place}"
