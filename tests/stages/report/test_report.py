"""The report's page: its content, hostile text on it, and making it again."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pytest
import soundfile

from schemas.storage.versions import record_version
from schemas.tables import CLIPS, MEASURES, ORIGINALITY, REQUESTS, SCORES, TRACKS
from stages import report
from stages.audio import encode_audio
from stages.audio.marks import read_marks
from stages.pipeline.contract import Context, ReduceResult, Stopped
from stages.report import rendering
from stages.report.catalog_data import data_blocks
from stages.report.clips import ClipContext, ClipView, clip_view
from stages.report.score_card import FOLLOWED, SOUND
from tests.worlds.small_catalog import (
    CHECKPOINT,
    EARLIER,
    MEASURED,
    add_codec,
    add_earlier_clips,
    melody_clip,
    request_row,
    small_catalog,
    write,
)

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "{{7*7}}{% raw %}${7*7}",
    "javascript:alert(1)",
    "\u202egnp.exe\u2066 ‮hidden",
    "</script><svg onload=alert(1)>",
    "--><!-- ]]> &lt;b&gt; ' OR 1=1; DROP TABLE clips",
)


def make(context: Context) -> ReduceResult:
    return report.reduce(report.Config(), context, *(context.rows(table) for table in report.READS))


def view(request: dict, take: int) -> ClipView:
    """A clip without scores."""
    clip = {"request_id": request["request_id"], "take": take, "checkpoint_id": CHECKPOINT, "path": "audio/a.flac"}
    clip |= {"format": "flac", "sample_rate": 16_000, "seconds": 4.0, "loudness": -16.0, "true_peak": -1.0}
    row = {"fields": None, "reading": None, "guidance_text": None, "stale": None} | request
    around = ClipContext(tracks={}, pictures={"abc": "pictures/abc.png"})
    return clip_view(clip | {"sha256": "abc"}, row, 1, None, around, None)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text.append(data)

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def clips_of(store: Path) -> list[dict]:
    """The data of the clips that the page's scripts receive, read as they read it."""
    text = (store / "report/index.html").read_text()
    blocks = re.findall(r'<script type="application/json" class="clips-block">(.*?)</script>', text, re.S)
    clips = [clip for block in blocks for clip in json.loads(block)]
    assert len(clips) == facts_of(store)["clips"]
    return clips


def facts_of(store: Path) -> dict:
    text = (store / "report/index.html").read_text()
    block = re.search(r'<script type="application/json" id="catalog">(.*?)</script>', text, re.S)
    assert block
    return json.loads(block[1])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def context(store: Path) -> Context:
    requests = [request_row(number) for number in range(11)] + [request_row(11, guidance_text=4.5)]
    requests += [
        request_row(12 + number, title=text, description=text, name=text, melody=None, fields=[("genre", f"[{text}]")])
        for number, text in enumerate(HOSTILE)
    ]
    return small_catalog(str(store), requests)


@pytest.fixture(scope="module")
def page(context: Context, store: Path) -> Tags:
    made = make(context)
    assert not made.rejects
    return Tags((store / "report/index.html").read_text())


def test_every_clip_has_a_sound_and_a_picture_that_exist(page: Tags, store: Path) -> None:
    clips = clips_of(store)
    assert len({clip["audio"] for clip in clips}) == 19
    for clip in clips:
        for address in (clip["audio"], clip["picture"], *(sound["audio"] for sound in clip["sounds"])):
            assert (store / "report" / unquote(address)).resolve().is_file()


def test_the_page_itself_contains_the_first_clips_for_readers_without_scripts(
    page: Tags, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources = [attributes["src"] for attributes in page.of("audio") if "src" in attributes]
    assert sources == [clip["audio"] for clip in clips_of(store)]
    monkeypatch.setattr(rendering, "PLAIN_CLIPS", 3)
    make(small_catalog(str(tmp_path), [request_row(number) for number in range(5)]))
    text = (tmp_path / "report/index.html").read_text()
    assert text.count("<audio controls") == 3
    assert "here are the first 3 of 5 clips" in text


def test_the_data_of_clips_is_split_into_blocks() -> None:
    views = [view(request_row(number // 2, takes=2), number % 2 + 1) for number in range(6)]
    blocks = [json.loads(block) for block in data_blocks(views, clips_in_block=4)]
    assert [len(block) for block in blocks] == [4, 2]
    assert [clip["take"] for block in blocks for clip in block] == [1, 2] * 3


def test_the_second_take_is_numbered_as_the_second(tmp_path: Path) -> None:
    make(small_catalog(str(tmp_path), [request_row(0, takes=2)]))
    second = clips_of(tmp_path)[1]
    assert (second["take"], second["takes"]) == (2, 2)
    assert second["anchor"].endswith("-2")
    assert ["Take and seed", "2, 0"] in second["lineage"]


def test_a_stale_line_and_digital_silence_carry_a_mark(tmp_path: Path) -> None:
    requests = [request_row(0, stale="expected seconds above 0, got -1"), request_row(1), request_row(2)]
    context = small_catalog(str(tmp_path), requests)
    tables = {table: context.rows(table) for table in report.READS}
    scores = tables[SCORES].to_pylist()
    for row in scores:
        row["zeros"] = {requests[1]["request_id"]: 0.27, requests[2]["request_id"]: 0.004}.get(row["request_id"])
    tables[SCORES] = tables[SCORES].from_pylist(scores, schema=SCORES.schema)
    report.reduce(report.Config(), context, *tables.values())
    stale, silent, sound = clips_of(tmp_path)
    assert stale["marks"][0][0] == "stale"
    assert "expected seconds above 0, got -1" in stale["marks"][0][1]
    assert silent["marks"] == [["27 % digital silence", "27 % of its samples are exactly zero"]]
    assert sound["marks"] == []
    assert [("marked" in clip["kinds"], "stale" in clip["kinds"]) for clip in (stale, silent, sound)] == [
        (True, True),
        (True, False),
        (False, False),
    ]


def test_the_sounds_compared_with_a_clip_are_named_and_exist(tmp_path: Path) -> None:
    context = small_catalog(str(tmp_path / "store"), [request_row(1)])
    tables = {table: context.rows(table) for table in report.READS}
    source = tmp_path / "source.wav"
    source.write_bytes(encode_audio(0.1 * melody_clip(7, seconds=9.0), 16_000, "wav", {}))
    tracks = [row | {"uri": str(source)} for row in tables[TRACKS].to_pylist()]
    tables[TRACKS] = tables[TRACKS].from_pylist(tracks, schema=TRACKS.schema)
    report.reduce(report.Config(excerpt_seconds=5.0), context, *tables.values())
    (clip,) = clips_of(tmp_path / "store")
    assert [sound["role"] for sound in clip["sounds"]] == ["Untrained model", "Melody reference", "Nearest track"]
    assert clip["sounds"][1]["title"] == "Quiet River (source) by Otter & Vale"
    data = (tmp_path / "store/report" / clip["sounds"][1]["audio"]).resolve().read_bytes()
    samples, rate = soundfile.read(io.BytesIO(data))
    assert len(samples) / rate == pytest.approx(5.0, abs=0.1)
    assert not read_marks(io.BytesIO(data))  # it was not generated here
    report.reduce(report.Config(excerpt_seconds=0), context, *tables.values())
    assert [sound["role"] for sound in clips_of(tmp_path / "store")[0]["sounds"]] == ["Untrained model"]
    assert not list((tmp_path / "store/report/excerpts").iterdir())


def test_a_missing_recording_is_left_out_with_a_remark(tmp_path: Path) -> None:
    context = small_catalog(str(tmp_path), [request_row(1)])
    tables = {table: context.rows(table) for table in report.READS}
    tracks = [row | {"uri": str(tmp_path / "gone.wav")} for row in tables[TRACKS].to_pylist()]
    tables[TRACKS] = tables[TRACKS].from_pylist(tracks, schema=TRACKS.schema)
    assert not report.reduce(report.Config(), context, *tables.values()).rejects
    assert [sound["role"] for sound in clips_of(tmp_path)[0]["sounds"]] == ["Untrained model"]
    assert "cannot play" in context.remarks.all()[0].what


def test_clips_of_another_checkpoint_with_the_same_requests_and_seeds_are_shown_beside(tmp_path: Path) -> None:
    requests = [request_row(number) for number in range(3)]
    context = small_catalog(str(tmp_path), requests)
    other_seed = requests[1] | {"seed": 999}
    add_earlier_clips(context, [requests[0], other_seed])
    make(context)
    clips = clips_of(tmp_path)
    assert ["twin" in clip for clip in clips] == [True, False, False]
    assert clips[0]["twin"]["checkpoint"] == EARLIER
    assert clips[0]["twin"]["values"]["chroma_similarity"] == 0.2
    assert (tmp_path / "report" / clips[0]["twin"]["picture"]).is_file()
    assert facts_of(tmp_path)["twins"] == [EARLIER]


def test_too_near_clips_of_another_checkpoint_are_not_shown_beside(tmp_path: Path) -> None:
    requests = [request_row(number) for number in range(2)]
    context = small_catalog(str(tmp_path), requests)
    add_earlier_clips(context, requests)
    first = context.store.read(CLIPS, EARLIER, columns=["request_id", "take", "sha256"]).to_pylist()[0]
    judged = pa.Table.from_pylist([first | {"too_near": True}], schema=ORIGINALITY.schema)
    context.store.write_shard(ORIGINALITY, "0a1a", "0", judged, input_key="a test")
    record_version(context.store, "0a1a", "originality", 1, "{}", {CLIPS.name: EARLIER})
    make(context)
    assert {clip["id"]: "twin" in clip for clip in clips_of(tmp_path)} == {
        request["request_id"]: request["request_id"] != first["request_id"] for request in requests
    }


def test_sounds_of_an_untrained_model_without_a_clip_here_are_counted(tmp_path: Path) -> None:
    requests = [request_row(number) for number in range(4)]  # those with odd numbers have such a sound
    context = small_catalog(str(tmp_path), requests)
    make(context)
    assert "of the untrained model" not in (tmp_path / report.PAGE).read_text()
    write(context.store, REQUESTS, requests[2:])
    make(context)
    assert "1 of the 2 sounds of the untrained model belong to requests" in (tmp_path / report.PAGE).read_text()


def test_quarantined_clips_are_not_on_the_page(tmp_path: Path) -> None:
    requests = [request_row(number) for number in range(4)]
    context = small_catalog(str(tmp_path), requests)
    tables = {table: context.rows(table) for table in report.READS}
    clips = tables[CLIPS].to_pylist()
    of = {row["request_id"]: row for row in clips}
    of[requests[0]["request_id"]]["reasons"] = ["tail silence: expected at most 1 s, got 3"]
    near = [
        {"request_id": row["request_id"], "take": 1, "sha256": sha256, "too_near": too_near}
        for row, sha256, too_near in (
            (requests[1], of[requests[1]["request_id"]]["sha256"], True),
            (requests[2], "0" * 64, True),  # of a file that was made again since
            (requests[3], of[requests[3]["request_id"]]["sha256"], False),
        )
    ]
    tables[CLIPS] = tables[CLIPS].from_pylist(clips, schema=CLIPS.schema)
    tables[ORIGINALITY] = tables[ORIGINALITY].from_pylist(near, schema=ORIGINALITY.schema)
    report.reduce(report.Config(), context, *tables.values())
    assert {clip["id"] for clip in clips_of(tmp_path)} == {row["request_id"] for row in requests[2:]}


def test_a_score_has_the_name_of_the_score_card(page: Tags, store: Path) -> None:
    names = {column["name"]: column["words"] for column in facts_of(store)["columns"]}
    for name, (words, _) in (FOLLOWED | SOUND).items():
        assert names.get(name, words) == words
    for clip in clips_of(store):
        assert clip["scores"].keys() | clip["values"].keys() <= names.keys()


def test_the_page_requests_nothing_from_a_network(page: Tags, store: Path) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "../audio/", "pictures/")), (tag, value)
    assert not page.of("link")
    addresses = re.findall(r"\w+://[^\s\"']*", (store / "report/index.html").read_text())
    assert addresses == ["http://www.w3.org/2000/svg"]  # a name, which nothing fetches


def test_hostile_text_is_only_text(page: Tags, store: Path) -> None:
    said = "".join(page.text)
    for text in HOSTILE:
        assert text in said
        assert f"[{text}]" in said
    titles = {clip["title"] for clip in clips_of(store)}
    assert titles > set(HOSTILE)
    assert len(page.of("script")) == len(rendering.SCRIPTS) + 2  # the data of the catalog, and the clips
    assert len([image for image in page.of("img") if "src" in image]) == 19
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]


def test_the_policy_allows_only_the_pages_own_style_and_script(page: Tags, store: Path) -> None:
    text = (store / "report/index.html").read_text()
    policy = next(str(meta["content"]) for meta in page.of("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in inline]
        allowed = re.search(rf"{tag}-src ([^;]*);", policy)
        assert allowed
        assert allowed[1].split() == [f"'sha256-{digest}'" for digest in hashes]


def test_lineage_links_a_clip_to_its_request_checkpoint_and_data(page: Tags) -> None:
    said = "".join(page.text)
    assert f"#model-{CHECKPOINT}" in {attributes.get("href") for attributes in page.of("a")}
    assert f"model-{CHECKPOINT}" in {attributes.get("id") for attributes in page.of("article")}
    for part in (request_row(3)["request_id"], "da7ada7ada7ada7a", "5 of the requests file", "scores"):
        assert part in said


def test_a_clip_shows_what_was_asked_for(page: Tags) -> None:
    said = "".join(page.text)
    assert said.count("Genre") == len(HOSTILE)
    assert said.count("text guidance 4.5, guidance 3, temperature 1, top-k 250") == 1
    assert said.count("text guidance") == 1


def test_ids_are_unique_and_labels_and_headings_are_present(page: Tags) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    headings = [tag for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings.count("h1") == 1
    assert all(attributes.get("aria-label") for attributes in page.of("audio") if attributes.get("id") != "audio")
    assert page.of("html")[0]["lang"] == "en"
    for section in page.of("section"):
        assert section["aria-labelledby"] in ids


def test_a_second_report_is_the_same_and_draws_no_picture_again(page: Tags, store: Path, context: Context) -> None:
    before = (store / "report/index.html").read_bytes()
    drawn = {file.name: file.stat().st_mtime_ns for file in (store / "report/pictures").iterdir()}
    make(context)
    assert (store / "report/index.html").read_bytes() == before
    assert {file.name: file.stat().st_mtime_ns for file in (store / "report/pictures").iterdir()} == drawn


def test_the_row_of_the_report_names_the_existing_page(store: Path, context: Context, page: Tags) -> None:
    row = make(context).rows[0]
    data = (store / row["path"]).read_bytes()
    assert (row["path"], row["clips"], row["bytes"]) == ("report/index.html", 19, len(data))
    assert row["sha256"] == hashlib.sha256(data).hexdigest()


def test_files_that_the_page_no_longer_uses_are_removed(tmp_path: Path) -> None:
    context = small_catalog(str(tmp_path), [request_row(0)])
    context.store.write_bytes("report/pictures/old.png", b"no clip's")
    context.store.write_bytes("report/excerpts/old.mp3", b"of no clip")
    make(context)
    assert len(list((tmp_path / "report/pictures").iterdir())) == 1
    assert not list((tmp_path / "report/excerpts").iterdir())


def test_a_missing_or_damaged_clip_is_refused_and_the_others_are_shown(tmp_path: Path) -> None:
    requests = [request_row(number) for number in range(3)]
    context = small_catalog(str(tmp_path), requests)
    first, second, _ = sorted((tmp_path / "audio").rglob("*.flac"))
    first.unlink()
    second.write_bytes(b"fLaC and then nothing")
    made = make(context)
    assert len(made.rejects) == 2
    assert "missing" in {reject.kind for reject in made.rejects}
    text = (tmp_path / "report/index.html").read_text()
    assert len(clips_of(tmp_path)) == text.count("<audio controls") == 1
    assert "2 clips are left out" in text


def test_a_finding_that_does_not_hold_is_stated_plainly(tmp_path: Path) -> None:
    context = small_catalog(str(tmp_path), [request_row(number) for number in range(8)])
    rows = [
        row | {"value": 0.05, "low": 0.0, "high": 0.1} if row["sounds"] == "clips" and row["unit"] == "share" else row
        for row in MEASURED
    ]
    tables = [context.rows(table) for table in report.READS]
    position = report.READS.index(MEASURES)
    tables[position] = tables[position].from_pylist(rows, schema=MEASURES.schema)
    report.reduce(report.Config(), context, *tables)
    text = (tmp_path / "report/index.html").read_text()
    claim = "Clips follow the melody that was asked for"
    assert re.search(rf'does-not-hold">does not hold</span><div><h3>{claim}', text)
    assert "clips 5.0 % (0.0–10.0 · n 100); chance 10 %" in text


def test_the_score_card_has_every_measure_with_its_interval_and_refused_ones(page: Tags) -> None:
    said = " ".join("".join(page.text).split())
    for words in ("Score card", "Of the ceiling", "50–70 · n 100", "894 Hz", "refused: expected at least 64 sounds"):
        assert words in said


def test_beats_and_chords_are_drawn_as_asked_and_as_heard(page: Tags, store: Path) -> None:
    drawn = [clip["drawn"] for clip in clips_of(store) if clip["drawn"]]
    assert len(drawn) == 7  # every third request asks for a tempo
    assert all("chords asked: Am F; chords heard: Am7 –" in shapes["words"] for shapes in drawn)
    assert all(shapes["asked"].startswith("M0.0 0V22") and shapes["heard"].startswith("M1.6 78") for shapes in drawn)
    assert [name for name, _ in drawn[0]["lanes"]] == ["asked", "heard"]


def test_a_store_without_clips_scores_and_models_has_a_page_that_says_so(tmp_path: Path) -> None:
    context = small_catalog(str(tmp_path), [request_row(0)])
    empty = [context.rows(table).slice(0, 0) for table in report.READS]
    report.reduce(report.Config(), context, *empty)
    text = (tmp_path / "report/index.html").read_text()
    assert "There are no clips yet." in text
    assert "No model was trained in this store." in text


def test_a_stopped_report_leaves_the_page_unchanged(tmp_path: Path) -> None:
    context = small_catalog(str(tmp_path), [request_row(0)])
    make(context)
    before = (tmp_path / "report/index.html").read_bytes()
    context.stop.set()
    with pytest.raises(Stopped):
        make(context)
    assert (tmp_path / "report/index.html").read_bytes() == before


def test_a_clip_path_outside_the_store_is_never_linked() -> None:
    from stages.report.clips import relative_address

    assert relative_address("audio/version=1/a b#.flac") == "../audio/version=1/a%20b%23.flac"
    for path in ("/etc/passwd", "../x.flac", "audio/../../x", ""):
        with pytest.raises(ValueError, match="inside the store"):
            relative_address(path)


def test_a_codec_trained_here_has_measures_and_reconstructions_beside_the_originals(tmp_path: Path) -> None:
    context = small_catalog(str(tmp_path), [request_row(0)])
    add_codec(context, 3)
    assert not make(context).rejects
    page = Tags((tmp_path / "report/index.html").read_text())
    said = " ".join("".join(page.text).split())
    assert "about 17% of the energy" in said
    assert "SI-SNR 7.0 dB against −44.0" in said
    assert "SI-SNR 7.0 dB against 0.8" in said
    assert "The scalar quantiser sends fewer samples" in said
    heard = [row for row in page.of("audio") if "checkpoint=" in str(row.get("src"))]
    assert [str(row["src"]).rsplit("/", 1)[1] for row in heard] == [
        f"{number}-{side}.flac" for number in (1, 2, 3) for side in ("original", "decoded")
    ]
    assert heard[0]["aria-label"] == "Quiet River (source) by Otter & Vale, original"
    for image in (image for image in page.of("img") if "src" in image):
        assert (tmp_path / "report" / str(image["src"])).is_file()
    assert len({image["src"] for image in page.of("img") if "src" in image}) == 7


def test_the_report_of_a_store_without_a_trained_codec_says_so(page: Tags) -> None:
    said = "".join(page.text)
    assert "No codec was trained in this store" in said
    assert "scalar quantiser" not in said


def test_the_section_of_a_codec_of_an_earlier_release_names_what_is_missing(tmp_path: Path) -> None:
    context = small_catalog(str(tmp_path), [request_row(0)])
    add_codec(context, 0, {"valid_si_snr": -3.0, "valid_log_mel_distance": 15.0})
    make(context)
    said = " ".join("".join(Tags((tmp_path / "report/index.html").read_text()).text).split())
    assert "there is more error than music in it" in said
    assert "The checkpoint has no valid_si_snr_scalar, valid_log_mel_distance_scalar." in said
    assert "No reconstructions of this codec were kept." in said


def test_a_reconstruction_with_a_missing_file_is_left_out_and_counted(tmp_path: Path) -> None:
    context = small_catalog(str(tmp_path), [request_row(0)])
    codec = add_codec(context, 2)
    context.store.remove(f"audio/checkpoint={codec['checkpoint_id']}/1-decoded.flac")
    made = make(context)
    assert [(reject.key, reject.kind) for reject in made.rejects] == [
        (f"{codec['checkpoint_id']}/1/decoded", "missing")
    ]
    page = Tags((tmp_path / "report/index.html").read_text())
    assert len([row for row in page.of("audio") if "checkpoint=" in str(row.get("src"))]) == 2
    said = "".join(page.text)
    assert "1 of the codec’s reconstructions cannot be read" in said
    assert "clips are left out" not in said
