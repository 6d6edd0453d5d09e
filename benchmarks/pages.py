"""Puts generated text between the markers of a page."""

from __future__ import annotations

from pathlib import Path

from ocnopt_lab.errors import LabError, writing


def insert(page: Path, section: str, text: str) -> None:
    """Replaces what stands between `<!-- begin:section -->` and `<!-- end:section -->`."""
    begin, end = f"<!-- begin:{section} -->", f"<!-- end:{section} -->"
    try:
        old = page.read_text()
    except OSError as error:
        raise LabError(f"Cannot read {page}: {error.strerror or error}.") from error
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise LabError(f"{page} must hold {begin} and, after it, {end}, once each.")
    head, rest = old.split(begin)
    with writing(page):
        page.write_text(f"{head}{begin}\n\n{text.strip()}\n\n{end}{rest.split(end)[1]}")
