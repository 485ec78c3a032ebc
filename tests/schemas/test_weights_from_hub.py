"""Weights are fetched from a hub by name: a real client, and a server that answers like a hub."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.worlds.smallest_run import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"

MUSICGEN = {
    "config.json": b"{}",
    "model.safetensors": b"tensors",
    "state_dict.bin": b"pickle",
    "compression_state_dict.bin": b"pickle",
    "README.md": b"words",
    "handler.py": b"code",
}
AUDIOCRAFT = {name: MUSICGEN[name] for name in ("state_dict.bin", "compression_state_dict.bin", "README.md")}


class Hub(BaseHTTPRequestHandler):
    """Two repositories; records the files that were requested."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {"someone/both": MUSICGEN, "someone/audiocraft": AUDIOCRAFT}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the tests read `asked`."""

    def _answer(self, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in self.repositories:
            name = "/".join(parts[2:4])
            files = [{"rfilename": file} for file in self.repositories[name]]
            tree = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in self.repositories[name].items()
            ]
            answer = tree if parts[4:5] == ["tree"] else {"id": name, "sha": COMMIT, "siblings": files, "tags": []}
            self._send(json.dumps(answer).encode(), body, {"Content-Type": "application/json"})
            return
        data = self.repositories.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
        if parts[2:3] != ["resolve"] or data is None:
            self.send_error(404)
            return
        if body:
            self.asked.append("/".join(parts[4:]))
        self._send(data, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    def _send(self, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


FETCH = """
import sys
from schemas import Store
from schemas import WeightsRef
from schemas.weights import WeightsLibrary
local = WeightsLibrary(Store(sys.argv[1]), offline=sys.argv[3] == "offline").get(WeightsRef(sys.argv[2]))
print(local.path, local.digest)
"""


def fetch(hub: str, folder: Path, reference: str, network: str = "online") -> subprocess.CompletedProcess:
    """Ask for weights in a process of its own, because the hub's client reads its address at import."""
    address = {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", FETCH, str(folder / "store"), reference, network]
    return subprocess.run(words, env=os.environ | address, capture_output=True, text=True, check=False)


def names(done: subprocess.CompletedProcess) -> list[str]:
    assert done.returncode == 0, done.stderr
    return sorted(path.name for path in Path(done.stdout.split()[0]).iterdir())


def test_only_safe_weights_and_their_descriptions_are_fetched(hub, tmp_path):
    assert names(fetch(hub, tmp_path, "someone/both")) == ["config.json", "model.safetensors"]
    assert sorted(Hub.asked) == ["config.json", "model.safetensors"]


def test_audiocrafts_files_are_fetched_if_there_are_no_others(hub, tmp_path):
    assert names(fetch(hub, tmp_path, "someone/audiocraft")) == sorted(set(AUDIOCRAFT) - {"README.md"})


def test_the_revision_of_the_first_use_is_kept_and_needs_no_network_again(hub, tmp_path):
    first, second = (
        fetch(hub, tmp_path, "someone/both"),
        fetch("http://127.0.0.1:9", tmp_path, "someone/both", "offline"),
    )
    assert first.stdout == second.stdout
    assert f"/{COMMIT} " in first.stdout


def test_a_name_unknown_to_the_hub_raises_missing_weights(hub, tmp_path):
    done = fetch(hub, tmp_path, "someone/else")
    assert done.returncode == 1
    assert "WeightsNotFetched" in done.stderr.splitlines()[-1]
    assert "someone/else" in done.stderr.splitlines()[-1]
