"""Quarantine, for stages: of rows of `clips` those that its view shows. `schemas.views` says the same in SQL."""

import pyarrow as pa
import pyarrow.compute as pc


def passed_clips(clips: pa.Table) -> pa.Table:
    """Return the rows of `clips` that nothing speaks against.

    Args:
        clips: with the column `reasons`, which a row of an earlier release lacks.
    """
    return clips.filter(pc.fill_null(pc.equal(pc.list_value_length(clips.column("reasons")), 0), True))
