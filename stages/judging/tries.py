"""Which try of a take became the clip: what the gate chose, for those who want its codes."""

from schemas.tables import Row


def chosen_try(verdict: Row, generation: Row) -> Row:
    """Return the row of `generations` of the try that the gate chose for a take, with what it says of that try."""
    codes = generation["codes"] if verdict["codes"] is None else verdict["codes"]
    return generation | {name: verdict[name] for name in ("retake", "seed", "reasons")} | {"codes": codes}
