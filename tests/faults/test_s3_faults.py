"""An S3 server that answers 503, resets connections, loses replies and stalls: stored files are old or new, complete,
and a later run repairs everything."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from aiohttp import ClientError
from botocore.exceptions import BotoCoreError
from s3fs import S3FileSystem

from flows.runs.failures import format_error, is_transient
from schemas import Settings, Store
from schemas.storage.file_store import WriteRefused
from schemas.tables import CHROMA, TOKENS
from stages.pipeline import jobs
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.runner import StageFailed, run_stage
from tests.faults.comparing import differences, seen
from tests.faults.forms import SEED, long_form
from tests.faults.s3_proxy import Kind, S3Fault, S3Proxy, s3_behind_proxy
from tests.worlds.kept_work import kept_keys
from tests.worlds.tiny_chain import chain, run_chain, write_inputs
from tests.worlds.tiny_stages import make_mapping, make_pipeline

TRACKS = {"a.txt": "do re", "b.txt": "re mi\nTitle", "c.txt": "silent"}
REQUESTS = ["2 calm", "1 loud like do re"]
OLD, NEW = b"old" * 3_800_000, b"new!" * 3_000_000
"""Files of more than two parts; the minimum part size of S3 is 5 MB."""
PART = 5 * 2**20

ERRORS = (OSError, BotoCoreError, ClientError)
"""Errors of s3fs: for answers of the server, and those of botocore and aiohttp for the network."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[S3Proxy]:
    with s3_behind_proxy() as proxy:
        yield proxy


@pytest.fixture
def bucket(proxy: S3Proxy, tmp_path: Path) -> str:
    name = f"music-{abs(hash(tmp_path))}"
    S3FileSystem().mkdir(name)
    return name


def work(store: Store) -> None:
    """Replace a shard, remove one, and write a folder and a row that names it."""
    store.write_shard(TOKENS, "v", "0", tokens("new"), input_key="new")
    store.remove_shard(TOKENS, "v", "1")
    with store.new_folder("models/one") as folder:
        (folder / "text").mkdir()
        (folder / "text" / "words").write_text("do re mi")
        (folder / "weights").write_bytes(b"1" * 1000)
    store.write_shard(TOKENS, "v", "2", tokens("names models/one"), input_key="new")


def tokens(name: str) -> pa.Table:
    return pa.Table.from_pylist([{"track_id": name, "frames": 3}], schema=TOKENS.schema)


def found(store: Store) -> dict[str, Any]:
    """What the store contains."""
    shards = {shard: store.read(TOKENS, "v", [shard])["track_id"].to_pylist() for shard in store.shards(TOKENS, "v")}
    words = store.read_bytes("models/one/text/words") if store.exists("models/one/text/words") else None
    size = len(store.read_bytes("models/one/weights")) if store.exists("models/one/weights") else None
    return {"shards": shards, "folder": (words, size)}


DONE = {"shards": {"0": ["new"], "2": ["names models/one"]}, "folder": (b"do re mi", 1000)}


def begun(url: str) -> Store:
    """A store with the content from before the work."""
    store = Store(url)
    for shard in ("0", "1"):
        store.write_shard(TOKENS, "v", shard, tokens("old"), input_key="old")
    return store


def problem_after(fault: S3Fault, proxy: S3Proxy, url: str, act: Callable[[Store], None]) -> str | None:
    """Work with a fault, and again without it; return what was wrong, or None."""
    store = begun(url)
    with proxy.failing(fault):
        try:
            act(store)
            failed = False
        except ERRORS:
            failed = True
        assert proxy.met
    between = found(store)
    if not failed and between != DONE:
        return f"{fault}: no error, and yet {between}"
    if between["shards"].get("0") not in (["old"], ["new"]):
        return f"{fault}: neither the old shard nor the new one: {between}"
    if "2" in between["shards"] and between["folder"] != DONE["folder"]:
        return f"{fault}: a row without its folder: {between}"
    act(store)
    return None if found(store) == DONE else f"{fault}: the next try left {found(store)}"


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_work_that_meets_a_fault_is_complete_or_fails_and_the_next_try_completes_it(
    kind: Kind, lasting: bool, proxy: S3Proxy, bucket: str, record_property: Callable[[str, Any], None]
) -> None:
    store = begun(f"s3://{bucket}/undisturbed")
    with proxy.failing(None):
        work(store)
        number = random.Random(f"{SEED} {kind} {lasting}").randint(1, len(proxy.log))
    assert problem_after(S3Fault(kind, number, lasting), proxy, f"s3://{bucket}/store", work) is None
    record_property("faults survived", 1)


def work_with_the_row_first(store: Store) -> None:
    """Plant a bug: the row that names the folder is written before it."""
    store.write_shard(TOKENS, "v", "2", tokens("names models/one"), input_key="new")
    work(store)


def test_a_planted_bug_is_found(proxy: S3Proxy, bucket: str) -> None:
    faults = [S3Fault("unavailable", number, lasting=True, of="put") for number in range(1, 4)]
    urls = (f"s3://{bucket}/{fault.at}" for fault in faults)
    found = [problem_after(fault, proxy, url, work_with_the_row_first) for fault, url in zip(faults, urls, strict=True)]
    assert any(problem and "a row without its folder" in problem for problem in found)


@pytest.mark.parametrize("form", ["short", pytest.param("long", marks=long_form)])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_multipart_upload_that_fails_leaves_the_old_file_or_the_new_one(
    form: str,
    lasting: bool,
    proxy: S3Proxy,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, Any], None],
) -> None:
    """Create, three parts, complete: each of them fails; in the short form, one request for each of two kinds of
    fault."""
    monkeypatch.setattr(S3FileSystem._pipe_file, "__defaults__", (PART, None, "overwrite"))
    store, chosen = Store(f"s3://{bucket}/store"), random.Random(f"{SEED} {lasting}")
    faults = [S3Fault(kind, at, lasting, of="multipart") for kind in get_args(Kind) for at in range(1, 6)]
    if form == "short":
        faults = [chosen.choice([one for one in faults if one.kind == kind]) for kind in ("unavailable", "lost reply")]
    for fault in faults:
        store.write_bytes("clip.flac", OLD)
        with proxy.failing(fault):
            try:
                store.write_bytes("clip.flac", NEW)
                failed = False
            except ERRORS:
                failed = True
            assert proxy.met
        assert store.read_bytes("clip.flac") in ((OLD, NEW) if failed else (NEW,)), fault
    record_property("faults survived", len(faults))


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_run_on_s3_that_meets_a_fault_is_repaired_by_the_next_run(
    kind: Kind,
    lasting: bool,
    proxy: S3Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, Any], None],
) -> None:
    inputs, draw = write_inputs(tmp_path / "inputs", TRACKS, REQUESTS), random.Random(f"{SEED} {kind} {lasting}")

    def settings(name: str) -> Settings:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name / "cache"))
        return Settings(store=f"s3://{name}/store", **inputs)

    names = [f"run-{number}-{abs(hash(tmp_path))}" for number in range(11)]
    for name in names:
        S3FileSystem().mkdir(name)
    with proxy.failing(None):
        run_chain(settings(names[0]))
        requests = len(proxy.log)
    wanted = seen(Store(f"s3://{names[0]}/store"))
    for name, number in zip(names[1:], sorted(draw.sample(range(1, requests), 10)), strict=True):
        fault, error = S3Fault(kind, number, lasting), None
        with proxy.failing(fault):
            try:
                run_chain(settings(name))
            except (*ERRORS, ValueError, StageFailed) as caught:
                error = caught
            assert proxy.met
        if error is not None:
            run_chain(settings(name))
        assert differences(seen(Store(f"s3://{name}/store")), wanted) == [], (fault, error)
    record_property("faults survived", 10)


@pytest.fixture
def refused(proxy: S3Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that tries the mapping of three tracks on the bucket; the proxy decides whether the bucket accepts
    files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jobs, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "SAVE_SHARE", 0)
    monkeypatch.setattr(S3FileSystem, "read_timeout", 60)  # because nothing stalls here, and a busy machine is slow
    S3FileSystem.clear_instance_cache()
    calls: list[str] = []
    pipeline = make_pipeline(f"s3://{bucket}/store", ["a", "b", "c"], make_mapping(calls))
    run_stage(pipeline.stages["source"], pipeline.context("source", "r1"))
    stage = pipeline.stages["mapping"]

    def attempt() -> jobs.Counts:
        return jobs.run_job(stage, pipeline.context("mapping", "r1"), "0")

    attempt.calls, attempt.store = calls, pipeline.store  # type: ignore[attr-defined]
    return attempt


def test_rows_that_a_store_refuses_are_computed_once_and_only_sent_again(
    refused: Any, proxy: S3Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with proxy.failing(S3Fault("unavailable", 2, lasting=True, of="put")):  # after the check for writing
        for _ in range(2):
            with pytest.raises(
                WriteRefused, match=r"did not accept shard 0 of chroma, .*reduce your request rate"
            ) as failed:
                refused()
            assert is_transient(failed.value), "Prefect tries the shard again"
    assert refused.calls == ["a", "b", "c"]
    assert " 5 times since 20" in str(failed.value), "three parts once, and the shard twice"
    assert "run the same command again later" in format_error(failed.value)
    assert "did not accept shard 0 of chroma, once" in caplog.messages[0]
    assert refused() == jobs.Counts(made=0, reused=3)
    assert refused.calls == ["a", "b", "c"]
    assert kept_keys(refused.store, CHROMA) == [("a",), ("b",), ("c",)]
    assert [file for file in (tmp_path / "cache").rglob("shard=*")] == []


def test_a_denied_write_is_not_tried_again_and_its_rows_are_kept_for_the_next_try(
    refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = refused.store.filesystem.pipe_file

    def deny(path: str, *words: Any, **more: Any) -> None:
        if not path.endswith(".inprogress"):  # the check whether it accepts files
            raise PermissionError("Access Denied")
        write(path, *words, **more)

    with monkeypatch.context() as denied:
        denied.setattr(refused.store.filesystem, "pipe_file", deny)
        with pytest.raises(WriteRefused, match="Access Denied") as failed:
            refused()
    assert not is_transient(failed.value)
    assert refused() == jobs.Counts(made=0, reused=3)
    assert refused.calls == ["a", "b", "c"]


@pytest.fixture(scope="module")
def growing(proxy: S3Proxy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of inputs with the name of a bucket; each test finds what those before it made."""
    folder = tmp_path_factory.mktemp("growing-")
    S3FileSystem().mkdir(folder.name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ingest", "train", "decode", "report"])
def test_work_that_a_store_refuses_is_computed_once_and_later_tries_give_up_before_it(
    name: str, proxy: S3Proxy, growing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard of a source, a folder, a file of a row, and a page."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(growing / "cache"))
    monkeypatch.setattr(S3FileSystem, "read_timeout", 60)
    S3FileSystem.clear_instance_cache()
    stages = chain()
    settings = Settings(store=f"s3://{growing.name}/store", **write_inputs(growing, TRACKS, REQUESTS))
    before = [each.name for each in stages[: [each.name for each in stages].index(name)]]
    if before:
        run_chain(settings, names=before)
    pipeline, begun = Pipeline(stages, settings), []
    pipeline.store.require()  # gives a new store its identity, which is also a file
    stage = pipeline.stages[name]
    work = next(each for each in ("read_source", "shard", "reduce") if hasattr(stage.module, each))
    works = getattr(stage.module, work)

    def counted(*given: Any) -> Any:
        begun.append(given)
        return works(*given)

    monkeypatch.setattr(stage.module, work, counted)

    def attempt() -> jobs.Counts:
        return jobs.run_job(stage, pipeline.context(name, "r1"), "0")

    with proxy.failing(S3Fault("unavailable", 2, lasting=True, of="put")), pytest.raises(OSError, match="request rate"):
        attempt()
    assert len(begun) == 1, "the store took the file that it was asked with"
    with proxy.failing(S3Fault("unavailable", 1, lasting=True, of="put")):
        for _ in range(2):
            with pytest.raises(
                WriteRefused, match=r"to accept files, got: .*reduce your request rate.* nothing was"
            ) as failed:
                attempt()
            assert is_transient(failed.value), "Prefect tries it again"
            assert "run the same command again later" in format_error(failed.value)
    assert len(begun) == 1
    assert attempt().made > 0
