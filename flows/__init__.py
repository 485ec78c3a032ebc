"""Order, retries, schedules, presets and the command line: the highest layer, and the only one that knows Prefect."""
