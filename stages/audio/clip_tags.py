"""Clip tags: what a generated file says about the request it was made for and how it was made.

Of the recordings that the model learned from, the tags give only the licences and their counts: no title, no artist.
"""

from schemas.tables import Row

ARTIST = "Segue (generated)"
"""Value of the artist tag, where players look for a name."""


def clip_title(request: Row) -> str:
    """Return the title under which people see the clips of a request."""
    return str(request["title"] or request["name"] or f"Request {request['request_id']}")


def used_adapters(request: Row) -> str:
    """Return the adapters and strengths that a request's clips are made with, as `name:strength, …`; empty if it has
    none."""
    return ", ".join(f"{each['name']}:{each['strength']:g}" for each in request.get("adapters") or ())


def clip_tags(generation: Row, request: Row, licences: str) -> dict[str, str]:
    """Return the tags of a clip's file, by the names that `encode_audio` takes. Tags without a value are left out.

    Args:
        generation: a row of `generations`, at least its key, `checkpoint_id`, `seed` and `created_at`.
        request: the row of `requests` that the clip was made for.
        licences: a short summary of the licences of the recordings that the model learned from; empty if they are not
            known.
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
