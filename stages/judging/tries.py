"""Which try of a take became the clip: the row of the try that the gate chose, with its codes."""

from schemas.tables import Row


def chosen_try(verdict: Row, generation: Row) -> Row:
    """Return the row of `generations` for the try that the gate chose for a take: with that try's codes, seed and
    number, and the gate's reasons."""
    codes = generation["codes"] if verdict["codes"] is None else verdict["codes"]
    return generation | {name: verdict[name] for name in ("retake", "seed", "reasons")} | {"codes": codes}
