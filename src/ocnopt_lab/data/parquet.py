"""CIFAR-10 from parquet files of compressed images, decoded once and kept in the cache."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.data import cache, npz
from ocnopt_lab.errors import LabError

# Where a split's files lie below the data folder: this project's names, then the Hugging Face layout.
_PATTERNS = (
    "cifar10_{split}*.parquet",
    "plain_text/{split}-*.parquet",
    "cifar10/{split}*.parquet",
    "cifar10/plain_text/{split}-*.parquet",
    "{split}-*.parquet",
)
Splits = dict[str, list[Path]]


def find(data_dir: Path) -> Splits | None:
    """The files of both splits by the first pattern that matches both, or None."""
    for pattern in _PATTERNS:
        found = {split: sorted(data_dir.glob(pattern.format(split=split))) for split in ("train", "test")}
        if all(found.values()):
            return found
    return None


def read(splits: Splits) -> Arrays:
    """The decoded arrays, from the cache where these very files were decoded before."""
    cached = cache.folder() / f"cifar10-{_key(splits)}.npz"
    if cached.is_file():
        return npz.read(cached)
    arrays = Arrays(*_decode("train", splits["train"]), *_decode("test", splits["test"]))
    _keep(cached, arrays)
    return arrays


def _key(splits: Splits) -> str:
    """A name that changes when a source file does: its path, size and time of change."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in chain(*splits.values())]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _keep(path: Path, arrays: Arrays) -> None:
    """Written under another name first: a file that is there is whole."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, **vars(arrays))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        warnings.warn(f"decoded images are not kept, {path.parent} is not writable: {error.strerror}", stacklevel=2)


def _decode(split: str, files: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    parts = [_columns(file) for file in files]
    images = [image for part, _ in parts for image in part]
    decoded = [_image(data, split) for data in track(images, description=f"decoding CIFAR-10 {split}", transient=True)]
    return np.stack(decoded), np.concatenate([labels for _, labels in parts])


def _columns(file: Path) -> tuple[list[bytes], NDArray[np.int64]]:
    """Compressed images and labels of one file: columns jpeg and label, or img (a struct with bytes) and label."""
    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise LabError(f"{file} is not a readable parquet file.") from error
    names = table.column_names
    if "label" not in names or not {"jpeg", "img"} & set(names):
        raise LabError(f"{file} has the columns {', '.join(names)}; CIFAR-10 needs label and either jpeg or img.")
    labels = table["label"].to_numpy().astype(np.int64)
    if "jpeg" in names:
        return table["jpeg"].to_pylist(), labels
    return [row["bytes"] for row in table["img"].to_pylist()], labels


def _image(data: bytes, split: str) -> NDArray[np.uint8]:
    """One decoded image (32, 32, 3)."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (UnidentifiedImageError, OSError, TypeError) as error:
        raise LabError(f"The CIFAR-10 {split} parquet file holds an image that cannot be decoded.") from error
    if pixels.shape != (32, 32, 3):
        raise LabError(f"The CIFAR-10 {split} parquet file holds an image of shape {pixels.shape}, not (32, 32, 3).")
    return pixels
