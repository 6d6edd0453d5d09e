"""Checkpoints that are whole or not there: written aside, synced, renamed; the one before is kept."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from ocnopt_lab.errors import FAILED, LabError, writing

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.prev.pt"


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Writes `state` to checkpoint.pt and keeps the former one as checkpoint.prev.pt."""
    target, temporary = folder / NAME, folder / f"{NAME}.tmp"
    # Through memory: torch.save to a path reports a full disk as an internal error of its zip writer.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with writing(target):
        try:
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if target.exists():
            target.replace(folder / PREVIOUS)
        temporary.replace(target)
    return target


def newest(folder: Path) -> Path | None:
    """The newest checkpoint file there is, readable or not."""
    return next((path for path in (folder / NAME, folder / PREVIOUS) if path.exists()), None)


def load(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The newest readable state, and a sentence where that is not the newest one."""
    paths = [path for path in (folder / NAME, folder / PREVIOUS) if path.exists()]
    if not paths:
        raise LabError(f"{folder} holds no {NAME}; there is nothing to resume.")
    for path in paths:
        if (state := _read(path)) is not None:
            older = path.name == PREVIOUS
            return state, f"{folder / NAME} cannot be read; going on from the one before, {path}." if older else None
    raise LabError(
        f"{' and '.join(map(str, paths))} cannot be read (corrupted, or not a checkpoint): start the run anew.", FAILED
    )


def states(folder: Path) -> list[dict[str, Any]]:
    """All states that can be read, the oldest first; a sentence where there is none."""
    found = [state for name in (PREVIOUS, NAME) if (state := _read(folder / name)) is not None]
    if not found:
        raise LabError(f"{folder} holds no checkpoint that can be read; there are no weights to look at.")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    """The state in `path`, None where it is damaged. torch.load does not verify the checksums it stores."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        return torch.load(path, weights_only=True, map_location=None if torch.cuda.is_available() else "cpu")
    except Exception:  # damaged bytes surface as almost any error of zipfile, pickle or torch
        return None
