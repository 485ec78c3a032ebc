"""`segue export`: what it prints, what it refuses in one line, and how requests are chosen."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import run_command
from schemas import Store
from schemas.storage.versions import record_version
from schemas.tables import CLIPS
from stages.audio.credentials import Credentials, identified_credentials, read_credentials
from tests.worlds.delivered_clips import delivered_store
from tests.worlds.small_catalog import VERSION, write

Segue = Callable[..., str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return delivered_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def export(store: Store, capsys: pytest.CaptureFixture[str]) -> Segue:
    """Runs the command and returns what it printed, standard error included."""

    def run(*words: object, code: int = 0) -> str:
        assert run_command(["export", *map(str, words), "--store", store.url]) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


def test_an_export_says_what_was_written_and_whether_anything_was(export: Segue, tmp_path: Path) -> None:
    assert f"{tmp_path}/d: 8 clips written, 0 unchanged\n" in export(tmp_path / "d")
    assert export(tmp_path / "d") == f"{tmp_path}/d: 8 clips unchanged, nothing to write\n"
    told = export(tmp_path / "d", "--where", "take = 2")
    assert f"{tmp_path}/d: 1 clip unchanged, the catalog rewritten\n" in told
    assert "7 clips of earlier exports not chosen now (--prune removes them):\n    clips/CON_1.flac\n" in told
    assert "7 clips of earlier exports removed" in export(tmp_path / "d", "--where", "take = 2", "--prune")


def test_clips_signed_by_the_development_certificate_are_signed_by_it_in_other_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    signed = delivered_store(tmp_path)
    credentials = identified_credentials(Credentials())  # as recorded in the version of decode
    config = json.dumps({"credentials": credentials.model_dump(mode="json")})
    record_version(signed, VERSION, "decode", 1, config, {})
    words = ["export", f"{tmp_path}/d", "--format", "mp3", "--where", "name = 'test'", "--store", signed.url]
    assert run_command(words) == 0
    (clip,) = (tmp_path / "d" / "clips").iterdir()
    claim = read_credentials(io.BytesIO(clip.read_bytes()), "mp3")
    assert claim is not None
    assert "development" in claim.signer


def test_requests_are_chosen_by_name_by_id_and_by_a_file(export: Segue, tmp_path: Path) -> None:
    (tmp_path / "order.csv").write_text("name,description\ntest,whatever\nopening,\n")
    told = export(tmp_path / "d", "--requests", "CON", "--requests", f"{5:016x}", "--requests", tmp_path / "order.csv")
    assert "5 clips written" in told
    (tmp_path / "unknown.csv").write_text("name,description\nclosing,\n")
    told = export(tmp_path / "d", "--requests", tmp_path / "unknown.csv", code=2)
    assert "that are in this store's order, got 1 that are not: line 2" in told
    assert "got 7 that match '0000'" in export(tmp_path / "d", "--requests", "0000", code=2)
    assert "'nothing', which is neither a file nor the id or name" in export(
        tmp_path / "d", "--requests", "nothing", code=2
    )
    told = export(tmp_path / "d", "--requests", "openning", code=2)
    assert "'openning', which is neither a file nor the id or name of a request (did you mean opening?)" in told


def test_the_best_takes_are_chosen_among_those_that_a_person_did_not_refuse(export: Segue, tmp_path: Path) -> None:
    picks = [{"request_id": f"{0:016x}", "take": 2, "verdict": "refuse"}]
    (tmp_path / "picks.json").write_text(json.dumps({"format": "segue-picks-2", "store": "", "picks": picks}))
    export(tmp_path / "d", "--by", "clap_similarity", "--requests", "opening")
    assert [path.name for path in (tmp_path / "d" / "clips").iterdir()] == ["opening_2.flac"]
    words = ("--by", "clap_similarity", "--requests", "opening", "--picks", tmp_path / "picks.json")
    export(tmp_path / "e", *words)
    assert [path.name for path in (tmp_path / "e" / "clips").iterdir()] == ["opening_1.flac"]


def test_a_request_whose_takes_were_all_refused_is_reported_with_how_to_make_more(
    export: Segue, tmp_path: Path
) -> None:
    picks = tmp_path / "picks.csv"
    picks.write_text(f"request_id,take,verdict\n{0:016x},1,refuse\n")
    assert "was refused" not in export(tmp_path / "d", "--picks", picks)
    picks.write_text(f"request_id,take,verdict\n{0:016x},1,refuse\n{0:016x},2,refuse\n")
    told = export(tmp_path / "d", "--picks", picks)
    assert "segue: every take of 1 request was refused: opening. To make a new take" in told
    assert "was refused" not in export(tmp_path / "e", "--picks", picks, "--requests", "test")
    assert "expected clips to deliver, got none" in export(
        tmp_path / "f", "--picks", picks, "--requests", "opening", code=2
    )


def test_quarantined_clips_are_left_out_of_a_delivery_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = delivered_store(tmp_path / "s")
    rows = store.read(CLIPS, VERSION).to_pylist()
    for row in rows:
        row["reasons"] = (
            ["dc: expected none, got some"] if row["request_id"] == f"{0:016x}" and row["take"] == 2 else []
        )
    write(store, CLIPS, rows)
    assert run_command(["export", str(tmp_path / "d"), "--store", store.url]) == 0
    told = capsys.readouterr()
    assert "7 clips written" in told.out
    assert "segue: 1 clip quarantined and not delivered: opening/2 (`segue sql" in told.err
    assert run_command(["export", str(tmp_path / "e"), "--requests", "test", "--store", store.url]) == 0
    assert "quarantined" not in capsys.readouterr().err
    words = ["export", str(tmp_path / "f"), "--where", "take = 2", "--store", store.url]
    assert run_command(words) == 2
    assert f"that match in {store.url}; 1 clip quarantined and not delivered: opening/2" in capsys.readouterr().err
    assert run_command(["explain", "clip", "opening/2", "--store", store.url]) == 2
    told = capsys.readouterr().err
    assert "take 2 is quarantined by gate: dc: expected none, got some" in told
    assert "did you mean" not in told, "the name is right"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--name", "{nme}"), "did you mean name?"),
        (("--where", "clap_similarty > 1"), "did you mean clap_similarity?"),
        (("--by", "chroma_similarty"), "did you mean chroma_similarity?"),
        (("--where", "seconds > 999"), "expected clips to deliver, got none"),
        (("--format", "mp3", "--sample-rate", "44000"), "44100, 48000 for MP3, got 44000"),
        (("--format", "ogg", "--bit-depth", "24"), "expected --format flac or wav with --bit-depth, got ogg"),
        (("--sample-rate", "3"), "from 8000 to 192000 Hz, got 3"),
        (("--picks", "/no/picks.json"), "expected picks as JSON or CSV at /no/picks.json, got nothing there"),
        (("--key", "a.pem"), "expected --certificate with --key"),
        (("--certificate", "a.pem"), "expected --key, its private key, with --certificate a.pem, got none"),
        (("--certificate", "development", "--key", "a.pem"), "expected no --key with the development certificate"),
    ],
)
def test_an_invalid_option_is_refused_in_one_line_and_nothing_is_written(export, tmp_path, words, message) -> None:
    told = export(tmp_path / "d", *words, code=2)
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "d").exists()


def test_an_export_with_a_clip_that_cannot_be_delivered_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = delivered_store(tmp_path / "s")
    store.remove(store.read(CLIPS, VERSION).to_pylist()[2]["path"])
    assert run_command(["export", str(tmp_path / "d"), "--store", store.url]) == 1
    assert "segue: 1 clip could not be delivered" in capsys.readouterr().err
