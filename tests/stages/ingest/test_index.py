"""Splits and shards: the place of a track depends on the track, not on other tracks or on kills."""

from hypothesis import given, settings
from hypothesis import strategies as some

from stages.ingest import reject_states, update_shards
from stages.ingest.artists import SPLITS
from stages.ingest.fields import Fields
from stages.ingest.index import TrackIndex
from stages.ingest.listing import File, Listing
from stages.ingest.metadata import SourceMetadata
from stages.ingest.probe import AudioProbe, Refused
from tests.worlds.ingest_world import MEASURES


def _file(name: str, content: int) -> File:
    return File(f"/m/{name}.wav", f"{name}.wav", str(content), 1)


def _result(content: int) -> AudioProbe | Refused:
    """Tracks by eight artists, alone and together, so that groups are connected all the time; some without an
    artist."""
    if content % 10 == 9:
        return Refused("silent", "as asked")
    artists = {"artists": [f"artist {number % 8}" for number in (content, content // 4)]} if content % 7 else {}
    tags = Fields(artists).to_json()
    return AudioProbe(f"{content:064x}", "wav", 16_000, 1, 16_000, **MEASURES, tags=tags)


def _index(known: list[dict], source: Listing, last_shard: int) -> TrackIndex:
    return TrackIndex(known, source, SourceMetadata(source.recordings, source.metadata), last_shard, 4, (0.3, 0.3))


def _run(store: dict, listing: list[tuple[str, int]], stop_after: int | None):
    """A run over files of these names and contents, with shards of four, killed after it wrote `stop_after` shards."""
    source = Listing(recordings=sorted((_file(*file) for file in listing), key=lambda file: file.uri))
    shards, refused = store.setdefault("shards", {}), store.setdefault("rejects", {})
    index = _index([row for rows in shards.values() for row in rows], source, max(shards, default=-1))
    stamps = {file.uri: file.stamp for file in source.recordings}
    rejects = {key: reject for key, reject in refused.items() if stamps.get(key) == reject.stamp}
    recorded = reject_states(refused.values())
    results = [(file, _result(int(file.stamp))) for file in index.unread(rejects)]
    for count, shard in enumerate(update_shards(index, rejects, recorded, results, save_every=3)):
        if count == stop_after:
            return
        store["rejects"] = dict(rejects)
        shards[shard] = index.take_shard(shard)[0]


def _plain(store: dict) -> tuple:
    shards = {number: sorted(rows, key=str) for number, rows in store["shards"].items() if rows}
    return shards, {key: reject.kind for key, reject in store["rejects"].items()}


NAMES = some.lists(
    some.tuples(some.sampled_from("abcdefghijklmnopqrstuvwx"), some.integers(0, 30)),
    max_size=20,
    unique_by=lambda file: file[0],
)


@settings(max_examples=80, deadline=None)
@given(some.lists(NAMES, min_size=1, max_size=4), some.lists(some.integers(0, 4), max_size=6))
def test_runs_killed_after_any_shard_end_with_the_same_shards(nights, kills):
    calm, broken = {}, {}
    kills = list(kills)
    for listing in nights:
        _run(calm, listing, None)
        for _ in range(min(2, len(kills))):
            _run(broken, listing, kills.pop())
        _run(broken, listing, None)
        assert _plain(calm) == _plain(broken)
        rows = [row for rows in calm["shards"].values() for row in rows]
        wanted = {f"{content:064x}" for _, content in listing if content % 10 != 9}
        assert sorted(row["track_id"] for row in rows) == sorted(wanted)
        assert set(calm["rejects"]) == {_file(*file).uri for file in listing if file[1] % 10 == 9}
        assert all(len(rows) <= 4 for rows in calm["shards"].values())


@settings(max_examples=60, deadline=None)
@given(some.lists(NAMES, min_size=2, max_size=5))
def test_only_the_last_shard_gets_new_tracks_and_a_row_keeps_its_shard(nights):
    store: dict = {}
    for listing in nights:
        shards = store.get("shards", {})
        before, last = (
            {row["track_id"]: row["shard"] for rows in shards.values() for row in rows},
            max(shards, default=0),
        )
        _run(store, listing, None)
        for row in [row for rows in store["shards"].values() for row in rows]:
            assert row["shard"] == before.get(row["track_id"], row["shard"])
            assert row["track_id"] in before or row["shard"] >= last
            assert row["uri"] == row["files"][0]["uri"] == min(file["uri"] for file in row["files"])


@settings(max_examples=40, deadline=None)
@given(NAMES)
def test_a_second_run_writes_nothing(listing):
    store: dict = {}
    _run(store, listing, None)
    source = Listing(recordings=sorted((_file(*file) for file in listing), key=lambda file: file.uri))
    known = [row for rows in store["shards"].values() for row in rows]
    index = _index(known, source, max(store["shards"], default=-1))
    recorded = reject_states(store["rejects"].values())
    assert index.unread(store["rejects"]) == []
    assert list(update_shards(index, dict(store["rejects"]), recorded, [])) == []


@settings(max_examples=80, deadline=None)
@given(some.lists(NAMES, min_size=1, max_size=4))
def test_no_artist_is_in_two_splits_and_known_tracks_move_only_to_training(nights):
    store: dict = {}
    for listing in nights:
        before = {row["track_id"]: row["split"] for rows in store.get("shards", {}).values() for row in rows}
        _run(store, listing, None)
        splits: dict[str, set[str]] = {}
        for row in [row for rows in store["shards"].values() for row in rows]:
            for artist in row["artists"] or ():
                splits.setdefault(artist, set()).add(row["split"])
            earlier = before.get(row["track_id"], row["split"])
            assert SPLITS.index(row["split"]) <= SPLITS.index(earlier)
        assert all(len(found) == 1 for found in splits.values())
