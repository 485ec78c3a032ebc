"""`segue page`: serves a store's page with its sounds to a browser on this machine, from a disk or a bucket, or signs
it."""

import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from flows.cli import run_command
from flows.commands.page import LONGEST_HOURS
from flows.commands.page_server import serve
from flows.runs.failures import format_error
from schemas import Store
from tests.stages.report.test_report import make
from tests.worlds.object_store import object_store
from tests.worlds.small_catalog import add_codec, request_row, small_catalog

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on a disk with a page, sounds and pictures."""
    folder = tmp_path_factory.mktemp("store")
    context = small_catalog(str(folder), [request_row(number) for number in range(6)])
    add_codec(context)
    make(context)
    return folder


@pytest.fixture(scope="module")
def bucket(folder):
    """The same store in a bucket."""
    with object_store() as filesystem:
        filesystem.mkdir("heard")
        store = Store("s3://heard/store")
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            store.write_bytes(file.relative_to(folder).as_posix(), file.read_bytes())
        yield store.url


@pytest.fixture(params=["disk", "bucket"])
def served(request, folder, bucket):
    """The address of a served page."""
    server = serve(Store(bucket if request.param == "bucket" else str(folder)), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def got(address, **headers):
    return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60)


def a_clip(folder):
    return next(file for file in sorted((folder / "audio").rglob("*.flac")))


def test_files_are_served_with_their_types_whole_or_by_ranges_of_bytes(served, folder):
    clip = a_clip(folder)
    address, data = f"{served}/{clip.relative_to(folder).as_posix()}", clip.read_bytes()
    whole = got(address)
    assert (whole.status, whole.headers["Content-Type"], whole.read()) == (200, "audio/flac", data)
    middle = got(address, Range="bytes=100-199")
    assert (middle.status, middle.read()) == (206, data[100:200])
    assert middle.headers["Content-Range"] == f"bytes 100-199/{len(data)}"
    assert got(address, Range="bytes=-50").read() == data[-50:]
    assert got(address, Range="bytes=100-").read() == data[100:]
    assert got(f"{served}/").headers["Content-Type"] == "text/html; charset=utf-8"
    with pytest.raises(urllib.error.HTTPError, match="416"):
        got(address, Range=f"bytes={len(data)}-")


@pytest.mark.parametrize(
    "path", ["segue-store.json", "report/../segue-store.json", "..%2f..%2fetc/passwd", "audio/none"]
)
def test_only_files_that_pages_link_to_are_served(served, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        got(f"{served}/{path}")


def test_a_request_under_another_host_name_is_refused(served):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        got(f"{served}/report/index.html", Host="evil.example:80")


def test_a_signed_page_has_links_that_are_valid_for_the_given_hours(bucket, tmp_path, capsys):
    file = tmp_path / "page.html"
    assert run_command(["page", "--store", bucket, "--signed", str(file), "--hours", "2"]) == 0
    assert "until 20" in capsys.readouterr().out
    text = file.read_text()
    assert "Links of this copy hold until 20" in text
    assert "Expires=" in text or "X-Amz-Expires=7200" in text
    assert '"../' not in text
    assert '"pictures/' not in text


def test_a_store_on_disk_cannot_be_signed_and_a_store_without_a_page_is_refused(folder, tmp_path, capsys):
    assert run_command(["page", "--store", str(folder), "--signed", str(tmp_path / "page.html")]) == 2
    assert "expected a store in a bucket for --signed" in capsys.readouterr().err
    empty = tmp_path / "empty"
    Store(str(empty)).require()
    assert run_command(["page", "--store", str(empty)]) == 2
    assert "`segue run report` makes it" in capsys.readouterr().err
    assert LONGEST_HOURS == 168


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: apt-get install chromium")
@pytest.mark.parametrize("form", ["served", "signed"])
def test_a_browser_shows_and_plays_the_page_of_a_bucket(form, bucket, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    server = serve(Store(bucket), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    if form == "signed":
        file = tmp_path / "page.html"
        assert run_command(["page", "--store", bucket, "--signed", str(file)]) == 0
        address = file.as_uri()
    try:
        with playwright.sync_playwright() as driver:
            arguments = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
            browser = driver.chromium.launch(executable_path=BROWSER, args=arguments)
            page = browser.new_page()
            messages: list[str] = []
            page.on("console", lambda message: messages.append(message.text))
            page.on("response", lambda answer: messages.append(answer.url) if answer.status >= 400 else None)
            page.goto(address)
            page.wait_for_function("() => isLoaded", timeout=120_000)
            drawn = "() => [...document.images].some(image => image.complete && image.naturalWidth > 100)"
            page.wait_for_function(drawn, timeout=120_000)
            page.locator(".play").first.click()
            heard = "() => [...document.querySelectorAll('audio')].some(sound => sound.currentTime > 0.2)"
            page.wait_for_function(heard, timeout=120_000)
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
    assert messages == []


def test_a_missing_bucket_missing_credentials_and_a_refusal_say_what_to_set(bucket, monkeypatch, capsys):
    assert run_command(["plan", "ingest", "--source", "nowhere", "--store", "s3://never-made/store"]) == 1
    assert "NoSuchBucket: create the bucket, or give --store" in capsys.readouterr().err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem.clear_instance_cache()
    assert run_command(["page", "--store", bucket]) == 1
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err
    refused = PermissionError("Access Denied")
    assert "s3:PutObject" in format_error(refused)
    S3FileSystem.clear_instance_cache()
