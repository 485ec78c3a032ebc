"""Arrow without pandas."""

import subprocess
import sys

from tests.worlds.patience import PATIENCE_SECONDS

SCRIPT = """
import sys
from schemas.arrow import leave_pandas_out

leave_pandas_out()
import pyarrow as pa

rows = pa.table({"name": pa.array(["a", None]), "made": pa.array([0, 1]).cast(pa.timestamp("us", "UTC"))})
print(rows.to_pylist()[1]["made"].microsecond, "pandas" in sys.modules)
print(list(rows.to_pandas()["name"].isna()), "pandas" in sys.modules)
"""


def test_lists_and_times_do_not_import_pandas_and_data_frames_still_work():
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    ).stdout
    assert told.splitlines() == ["1 False", "[False, True] True"]
