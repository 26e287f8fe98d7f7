"""The commit of the code that is running."""

import subprocess
from pathlib import Path


def current_commit() -> str:
    """Return the commit of this package's checkout, with "+" if its files differ from it; "" outside a git checkout."""
    package = Path(__file__).resolve().parents[1]
    commit = _git(package, "rev-parse", "--short=10", "HEAD")
    return commit + (
        "+" if commit and _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".") else ""
    )


def _git(folder: Path, *words: str) -> str:
    """Return what git prints; "" if it fails or does not exist."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
