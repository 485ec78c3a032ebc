"""Order, retries, schedules, presets and the command line: the highest layer, and the only one that knows Prefect."""

import os

# Pydantic would read the entry points of every installed package to find its plugins, which nothing here uses.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
