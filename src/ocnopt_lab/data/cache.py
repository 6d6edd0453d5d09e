"""Where downloads and decoded images are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def folder() -> Path:
    """`OCNOPT_CACHE`, or the user's cache directory of this platform."""
    return Path(os.environ.get("OCNOPT_CACHE") or platformdirs.user_cache_dir("ocnopt", appauthor=False))
