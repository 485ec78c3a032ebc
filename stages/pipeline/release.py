"""Which code this is: the version, and the commit if it is known."""

import json
import subprocess
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def release_text() -> str:
    """Return the version of Segue, with its commit if that is known, as text for a person."""
    return f"segue {code_version()}"


@cache
def code_version() -> str:
    """Return the version of this code. The commit is added if the code runs from a clone, or was installed from the
    address of a repository. It is looked up once, since it does not change while a process runs."""
    try:
        installed = Distribution.from_name("segue")
    except PackageNotFoundError:
        installed = None
    commit = _commit_of_clone() or _commit_of_installation(installed)
    version = installed.version if installed else "not installed"
    return version + (f" (commit {commit})" if commit else "")


def _commit_of_clone() -> str:
    """Return the commit that is checked out around this file, and whether files differ from it. Empty if there is no
    clone or no git."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + (", with changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*words: str) -> str:
    ended = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True)
    return ended.stdout.strip()


def _commit_of_installation(installed: Distribution | None) -> str:
    """Return the commit that pip or uv recorded (PEP 610, `direct_url.json`); empty if there is none."""
    noted = installed.read_text("direct_url.json") if installed else None
    commit: str = json.loads(noted).get("vcs_info", {}).get("commit_id", "") if noted else ""
    return commit[:12]
