"""The flow of `ingest` of a release that raised the stage's VERSION, where even the smallest upgrade waits for an
answer."""

import stages.ingest
from flows.runs import upgrading
from flows.single import ingest

__all__ = ["ingest"]

stages.ingest.VERSION += 1
upgrading.ASK_SECONDS = -1.0
