"""Order, retries, schedules, presets and the command line: the highest layer, and the only one that knows Prefect."""

import os

# Keep Pydantic from reading the entry points of every installed package to find its plugins; nothing here uses them.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
