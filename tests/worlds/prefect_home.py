"""Homes of Prefect with the database of a new server: making one takes longer than everything else in a first start."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

DATABASE = "prefect.db"


def keep_database(home: Path, common: Path) -> None:
    """Save the database of a server that has just started, for the homes that the processes of a test run make
    later."""
    kept = common / DATABASE
    if kept.exists():
        return
    own = common / f"{DATABASE}.{os.getpid()}"
    with closing(sqlite3.connect(home / DATABASE)) as theirs, closing(sqlite3.connect(own)) as ours:
        theirs.backup(ours)
    own.replace(kept)


def make_home(home: Path, common: Path) -> Path:
    """Make a home, with the saved database if there is one; otherwise Prefect makes its own."""
    home.mkdir(parents=True, exist_ok=True)
    if (common / DATABASE).exists() and not (home / DATABASE).exists():
        shutil.copy(common / DATABASE, home)
    return home
