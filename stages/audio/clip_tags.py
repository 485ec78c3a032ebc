"""Clip tags: what a generated file tells a player, and the next reader of it, of how it was asked for and made.

Nothing in them is of the recordings that the model learned from but their licences, counted: no title, no artist.
"""

from schemas.tables import Row

ARTIST = "Segue (generated)"
"""What stands where players look for a name."""


def clip_title(request: Row) -> str:
    """Return what a clip of a request is called where people see it."""
    return str(request["title"] or request["name"] or f"Request {request['request_id']}")


def used_adapters(request: Row) -> str:
    """Return the adapters that a request's clips are made with, as its line names them; empty without any."""
    return ", ".join(f"{each['name']}:{each['strength']:g}" for each in request.get("adapters") or ())


def clip_tags(generation: Row, request: Row, licences: str) -> dict[str, str]:
    """Return the tags of a clip's file, by the names of `encode_audio`.

    Args:
        generation: a row of `generations`, at least its key, `checkpoint_id`, `seed` and `created_at`.
        request: the row of `requests` that it was made for.
        licences: those of the recordings that the model learned from, in short; empty where they are not known.
    """
    tags = {
        "title": clip_title(request),
        "artist": ARTIST,
        "description": request["description"],
        "bpm": None if request["bpm"] is None else f"{request['bpm']:g}",
        "key": request["key"],
        "date": None if generation["created_at"] is None else f"{generation['created_at']:%Y-%m-%d}",
        "generated": "true",
        "request": request["request_id"],
        "name": request["name"],
        "take": str(generation["take"]),
        "checkpoint": generation["checkpoint_id"],
        "adapters": used_adapters(request),
        "seed": str(generation["seed"]),
        "temperature": _number(request["temperature"]),
        "guidance": _number(request["guidance"]),
        "top_k": _number(request["top_k"]),
        "top_p": _number(request["top_p"] or None),
        "training_licences": licences,
    }
    return {name: str(value) for name, value in tags.items() if value}


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"
