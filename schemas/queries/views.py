"""Views over several tables, so that a query of the store need not join them.

`clips` shows the clips that passed. A clip that did not is *quarantined*: its row and its file stay, `quarantine` lists
it with the reasons and the stage that gave them, and `every_clip` has both kinds. A later stage that objects to clips
says so in its own table; a line in `_REASONS` then changes all three views.

`lineage` and `descendants` go from a clip to the recordings that its models learned from, and back. They are joins, not
stored tables: a query about one clip or one recording reads only what is about it.
"""

from dataclasses import dataclass

from schemas.tables.catalog import HELD_BY_GATE


@dataclass(frozen=True)
class View:
    """A view over tables."""

    about: str
    """What one row is, as a phrase that completes "one row is …"."""
    tables: tuple[str, ...]
    """The names of the tables that it reads, also through other views."""
    statement: str


_REFERENCES = """
    SELECT request_id, how, substr(reference, 7) AS track_id
    FROM requests UNPIVOT (reference FOR how IN (melody, prompt, clap))
    WHERE starts_with(reference, 'track:')
"""
"""SQL: the recordings that requests refer to, and as what."""

_ADAPTERS = """
    SELECT request_id, CASE WHEN starts_with(a.reference, 'checkpoint:') THEN substr(a.reference, 12) ELSE a.digest END
           AS adapter_id
    FROM requests, unnest(adapters) AS u(a)
"""
"""SQL: the models that requests use as adapters, with the ids that `ancestry` has for them."""

EVERY_CLIP = "every_clip"
"""The view of all rows of the table `clips`, including those in quarantine; `clips` itself is a view over it."""

_REASONS = {
    "clips": f"SELECT request_id, take, sha256, 'gate' AS stage, reasons FROM {EVERY_CLIP} WHERE {HELD_BY_GATE}",
    "originality": "SELECT request_id, take, sha256, 'originality' AS stage, reasons FROM originality WHERE too_near",
}
"""For each table that can quarantine clips, the SQL that selects those clips: by key and by the digest of the file,
since a clip that was made again is another one, with the stage that objects to them and its reasons."""

_QUARANTINED = " UNION ALL ".join(_REASONS.values())

CLIPS_AND_REASONS = tuple(_REASONS)
"""The names of the tables that the view `clips` reads."""

VIEWS = {
    "tries": View(
        "a try of a take at the gate: its number and seed, the reasons against it, and its measurements",
        ("verdicts",),
        """
        SELECT request_id, take, checkpoint_id, t.retake = verdicts.retake AS chosen, unnest(t)
        FROM verdicts, unnest(tries) AS u(t)
        """,
    ),
    "quarantine": View(
        "a clip that was made but that `clips` does not show, with the stage that quarantined it and the reasons",
        CLIPS_AND_REASONS,
        f"""
        SELECT request_id, take, stage, q.reasons, title, checkpoint_id, seed, retake, path, sha256
        FROM ({_QUARANTINED}) q JOIN {EVERY_CLIP} USING (request_id, take, sha256)
        """,
    ),
    "clips": View(
        "a decoded file of generated sound that is not quarantined",
        CLIPS_AND_REASONS,
        f"""
        SELECT * FROM {EVERY_CLIP} c WHERE NOT EXISTS (
            FROM ({_QUARANTINED}) q
            WHERE q.request_id = c.request_id AND q.take = c.take AND q.sha256 = c.sha256
        )
        """,
    ),
    "detections": View(
        "a clip in one form in which its watermark was looked for, with the share of samples that the detector takes "
        "for marked and the bits of the message that are right",
        ("watermarks",),
        """
        SELECT request_id, take, unnest(h), watermark_bits AS bits
        FROM watermarks, unnest(watermark_heard) AS u(h)
        """,
    ),
    "artists_in_two_splits": View(
        "an artist with recordings in several splits; a correct store has none",
        ("tracks",),
        """
        SELECT lower(artist) AS artist, list(DISTINCT split ORDER BY split) AS splits
        FROM (SELECT unnest(artists) AS artist, split FROM tracks) GROUP BY ALL HAVING count(DISTINCT split) > 1
        """,
    ),
    "copies_in_two_splits": View(
        "a recording that is a copy of one in another split; a correct store has none",
        ("tracks",),
        """
        SELECT c.track_id, c.split, o.track_id AS copy_of, o.split AS split_of_that
        FROM (SELECT track_id, split, unnest(copies_of) AS original FROM tracks) c
        JOIN tracks o ON o.track_id = c.original WHERE c.split <> o.split
        """,
    ),
    "ancestry": View(
        "a model and one that it was made from; at `distance` 0 the model itself",
        ("checkpoints", "weights"),
        """
        WITH RECURSIVE parentage AS (
            SELECT checkpoint_id, unnest(parents) AS parent_id FROM checkpoints
        ), walk AS (
            (SELECT checkpoint_id, checkpoint_id AS ancestor_id, 0 AS distance FROM checkpoints
             UNION SELECT digest, digest, 0 FROM weights)
            UNION
            SELECT walk.checkpoint_id, parentage.parent_id, walk.distance + 1
            FROM walk JOIN parentage ON parentage.checkpoint_id = walk.ancestor_id
        ), nearest AS (
            SELECT checkpoint_id, ancestor_id, min(distance) AS distance FROM walk GROUP BY ALL
        ), elsewhere AS (
            SELECT digest, min(reference) AS reference FROM weights GROUP BY digest
        )
        SELECT nearest.checkpoint_id, ancestor_id, distance, kind, reference, training_set
        FROM nearest
        LEFT JOIN checkpoints ON checkpoints.checkpoint_id = ancestor_id
        LEFT JOIN elsewhere ON elsewhere.digest = ancestor_id
        """,
    ),
    "lineage": View(
        "a clip, a model that contributed to it, and a recording that this model learned from or the request refers to",
        (*CLIPS_AND_REASONS, "checkpoints", "weights", "learned", "requests", "tracks"),
        f"""
        SELECT request_id, take, clips.checkpoint_id, ancestor_id AS model_id, kind, reference, distance,
               CASE WHEN track_id IS NOT NULL THEN 'learned' END AS how, track_id, learned.title, artist, licence, uri
        FROM clips JOIN ancestry USING (checkpoint_id) LEFT JOIN learned USING (training_set)
        UNION BY NAME
        SELECT request_id, take, clips.checkpoint_id, ancestor_id AS model_id, kind, reference, distance,
               CASE WHEN track_id IS NOT NULL THEN 'learned' END AS how, track_id, learned.title, artist, licence, uri
        FROM clips JOIN ({_ADAPTERS}) USING (request_id) JOIN ancestry ON ancestry.checkpoint_id = adapter_id
        LEFT JOIN learned USING (training_set)
        UNION ALL BY NAME
        SELECT request_id, take, checkpoint_id, how, track_id, tracks.title, artist, licence, uri
        FROM clips JOIN ({_REFERENCES}) USING (request_id) LEFT JOIN tracks USING (track_id)
        """,
    ),
    "descendants": View(
        "a recording, a model that learned from it, and a clip of that model or of a request that refers to it",
        (*CLIPS_AND_REASONS, "checkpoints", "weights", "learned", "requests", "tracks"),
        f"""
        SELECT track_id, learned.title, artist, licence, uri, 'learned' AS how, learner.checkpoint_id AS learned_by,
               ancestry.checkpoint_id, model.kind, distance, request_id, take, clips.path
        FROM learned
        JOIN checkpoints AS learner USING (training_set)
        JOIN ancestry ON ancestor_id = learner.checkpoint_id
        JOIN checkpoints AS model ON model.checkpoint_id = ancestry.checkpoint_id
        LEFT JOIN clips ON clips.checkpoint_id = ancestry.checkpoint_id
        UNION BY NAME
        SELECT track_id, learned.title, artist, licence, uri, 'learned' AS how, learner.checkpoint_id AS learned_by,
               ancestry.checkpoint_id, model.kind, distance, request_id, take, clips.path
        FROM learned
        JOIN checkpoints AS learner USING (training_set)
        JOIN ancestry ON ancestor_id = learner.checkpoint_id
        JOIN checkpoints AS model ON model.checkpoint_id = ancestry.checkpoint_id
        JOIN ({_ADAPTERS}) ON adapter_id = ancestry.checkpoint_id
        JOIN clips USING (request_id)
        UNION ALL BY NAME
        SELECT track_id, tracks.title, artist, licence, uri, how, checkpoint_id, request_id, take, path
        FROM ({_REFERENCES}) JOIN clips USING (request_id) LEFT JOIN tracks USING (track_id)
        """,
    ),
}
"""Every view by its name, each after the views that it reads."""
