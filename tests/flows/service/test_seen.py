"""What an operator sees of a run on a real server: progress that moves, a summary at its end, warnings in its log, and
a message if it failed."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext

import flows.single
from flows.service import progress_artifact
from flows.service.progress_artifact import ReadableProgress, live_artifact
from flows.service.summary import KEY
from stages.pipeline.contract import Progress
from tests.worlds.command_line import make_recordings
from tests.worlds.patience import wait_for

SECRET = "xoxb-never-to-be-seen"


@pytest.fixture
def client(on_server) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture
def receiver() -> Iterator[Any]:
    """A web server on the loopback that keeps what it receives, as (path, headers, JSON)."""
    received: list[tuple[str, dict[str, str], Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.received = received  # type: ignore[attr-defined]
    server.address = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    yield server
    server.shutdown()
    server.server_close()


def artifacts(client: SyncPrefectClient, **wanted: Any) -> list[dict[str, Any]]:
    """Artifacts of the server, newest first."""
    chosen = {name: {"any_": [value]} for name, value in wanted.items()}
    body = {"artifacts": chosen, "sort": "CREATED_DESC"}
    told: list[dict[str, Any]] = client.request("POST", "/artifacts/filter", json=body).json()
    return told


def test_the_progress_of_a_stage_counts_finished_shards_and_those_in_work():
    progress = ReadableProgress(Progress())
    assert progress.reading() is None
    progress.begin_stage("tokenize", 4)
    progress.end_job()
    progress.start("tokenize", 10, "tracks")
    progress.advance(5, "note")
    reading = progress.reading()
    assert reading is not None
    assert reading.percent == 37.5
    assert reading.text.startswith("tokenize: 1/4 shards done; tokenize: 5/10 tracks, ")
    assert reading.text.endswith(", note")
    progress.begin_stage("train", 1)
    progress.start("train", 8, "steps")
    progress.advance(8)
    reading = progress.reading()
    assert reading is not None
    assert reading.percent == 100


@pytest.mark.parametrize(
    ("problem", "told", "percent"),
    [(None, "everything is done", 100), (ValueError("a bad disk"), "ended before everything was done", 75)],
    ids=["done", "failed"],
)
def test_the_progress_artifact_moves_and_says_how_the_stage_ended(client, monkeypatch, problem, told, percent):
    monkeypatch.setattr(progress_artifact, "TELL_SECONDS", 0.1)
    seen: list[float] = []
    progress = ReadableProgress(Progress())

    def shown() -> list[dict[str, Any]]:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return artifacts(client, flow_run_id=str(context.flow_run.id))

    @flow(persist_result=False)
    def long() -> None:
        def percents() -> list[float]:
            return [artifact["data"] for artifact in shown()]

        with suppress(ValueError), live_artifact(progress):
            progress.begin_stage("train", 1)
            progress.start("train", 4, "steps")
            for step in range(3):
                progress.advance(1, f"loss {3 - step}")
                wait_for(lambda wanted=25.0 * (step + 1): percents() == [wanted], seen=percents)
                seen.extend(percents())
            if problem:
                raise problem
        ended.extend(wait_for(lambda: [one for one in shown() if one["description"].startswith(told)], seen=shown))

    ended: list[dict[str, Any]] = []
    long()
    assert seen == [25, 50, 75]
    (artifact,) = ended
    assert (artifact["key"], artifact["type"], artifact["data"]) == (progress_artifact.KEY, "progress", percent)
    assert "; at the end, train; train: 3/4 steps, " in artifact["description"]
    assert artifact["description"].endswith("loss 1")


WARNED = """
import logging, threading
from prefect import flow
from prefect.logging import get_run_logger
from flows.service.run_log import in_run_log

@flow(persist_result=False)
def warned():
    with in_run_log(get_run_logger()):
        thread = threading.Thread(target=logging.getLogger("stages.ingest").warning, args=("%s is odd", "a.wav"))
        thread.start()
        thread.join()

warned()
"""


def test_a_warning_of_a_module_in_any_thread_is_in_the_log_of_the_run(server, client):
    ran = server.command(sys.executable, "-c", WARNED)
    assert ran.returncode == 0, ran.stderr

    def told() -> list[Any]:
        wanted = {"logs": {"level": {"ge_": logging.WARNING}}}
        lines = client.request("POST", "/logs/filter", json=wanted).json()
        return [line for line in lines if line["message"] == "a.wav is odd" and line["flow_run_id"]]

    assert len(wait_for(told)) == 1


def test_a_run_ends_with_one_artifact_of_what_it_made_refused_and_cost(client, tmp_path):
    source = make_recordings(tmp_path / "source", 3)
    (source / "broken | `x`.wav").write_bytes(b"RIFF")
    settings = {"store": str(tmp_path / "store"), "source": str(source), "workers": 1, "cost_per_hour": 3600}
    flows.single.ingest(settings=settings, recipe={"preset": "miniature"})
    made, *_ = artifacts(client, key=KEY)
    assert made["type"] == "markdown"
    text = made["data"]
    assert "| stage | rows made | reused | refused | seconds | cost |" in text
    assert "| ingest | 3 | 0 | 1 | " in text
    assert f"`segue page --store file://{tmp_path}/store`" in text
    assert "    refused 1:" in text
    assert "passed." in text
    assert "is complete" in made["description"]
    flows.single.ingest(settings=settings, recipe={"preset": "miniature"})
    assert artifacts(client, key=KEY)[0]["description"] == "There was nothing to do"


@pytest.mark.parametrize("kind", ["address", "custom-webhook/seen", "webhook/seen"])
def test_a_failed_run_is_reported_to_a_block_or_an_address_and_no_secret_is_shown(kind, client, tmp_path, receiver):
    CustomWebhookNotificationBlock(
        name="seen",
        url=f"{receiver.address}/{{{{token}}}}",
        json_data={"subject": "{{subject}}", "text": "{{body}}"},
        secrets={"token": SECRET},
    ).save("seen", overwrite=True)
    Webhook(url=f"{receiver.address}/{SECRET}").save("seen", overwrite=True)
    where = f"{receiver.address}/plain" if kind == "address" else kind
    source = make_recordings(tmp_path / "source", 1)
    (source / "a.wav").write_bytes(b"RIFF")
    (source / "b.wav").write_bytes(b"RIFF")
    settings = {"store": str(tmp_path / "store"), "source": str(source), "workers": 1, "on_failure": where}
    with pytest.raises(Exception, match="refused"):
        flows.single.ingest(settings=settings, recipe={"preset": "miniature"})
    ((path, _, message),) = receiver.received
    assert path == ("/plain" if kind == "address" else f"/{SECRET}")
    assert message["subject"].startswith("Segue: ingest miniature 20")
    assert message["subject"].endswith(": Failed")
    assert "refused" in message["text"]
    assert str(tmp_path / "store") in message["text"]
    assert "ended with an error" in artifacts(client, key=KEY)[0]["data"]
    logs = client.request("POST", "/logs/filter", json={"limit": 200, "sort": "TIMESTAMP_DESC"}).text
    runs = client.request("POST", "/flow_runs/filter", json={"limit": 5, "sort": "START_TIME_DESC"}).text
    shown = logs + runs + json.dumps(artifacts(client))
    assert SECRET not in shown


def test_a_missing_notification_block_is_reported_before_any_work(on_server, tmp_path):
    settings = {"store": str(tmp_path / "store"), "source": str(tmp_path), "on_failure": "slack-webhook/none"}
    with pytest.raises(ValueError, match="got 'slack-webhook/none', which cannot be loaded"):
        flows.single.ingest(settings=settings, recipe={"preset": "miniature"})
    assert not (tmp_path / "store").exists()
