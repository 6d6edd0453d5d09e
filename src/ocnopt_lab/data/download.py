"""Downloads of images in their published form, checked against the published MD5 sums, and of a text."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import numpy as np
import pooch
import requests
from numpy.typing import NDArray

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.data import cache
from ocnopt_lab.errors import FAILED, LabError

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"

# The idx files in the order of Arrays, and their MD5 sums.
_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_IDX_SUMS = {
    "mnist": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "fashion_mnist": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
}
_TEXT = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_TEXT_SUM = "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_CIFAR_FILE, _CIFAR_SUM = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"


def fetch(name: str) -> Arrays:
    """The data set `name` from the cache, or from the network into the cache."""
    if name == "cifar10":
        return read_cifar_archive(_retrieve(name, _CIFAR + _CIFAR_FILE, f"md5:{_CIFAR_SUM}"))
    base = _MNIST if name == "mnist" else _FASHION
    files = [_retrieve(name, base + file, f"md5:{md5}") for file, md5 in zip(_IDX_FILES, _IDX_SUMS[name], strict=True)]
    return Arrays(*map(read_idx, files))


def fetch_text(name: str) -> NDArray[np.uint8]:
    """The bytes of the text `name`, (length,), from the cache, or from the network into the cache."""
    return np.frombuffer(_retrieve(name, _TEXT, _TEXT_SUM).read_bytes(), np.uint8)


def _retrieve(name: str, url: str, known: str) -> Path:
    """One file in the cache. pooch downloads to a temporary name and checks the sum before it renames."""
    target = cache.folder() / name
    try:
        return Path(pooch.retrieve(url, known, url.rsplit("/", 1)[1], target, progressbar=True))
    except (requests.exceptions.RequestException, OSError, ValueError) as error:
        raise LabError(_offline(name, url, error), FAILED) from error


def _offline(name: str, url: str, error: Exception) -> str:
    files = f"{name}.npz" + (" or its two parquet files" if name == "cifar10" else "")
    return (
        f"The data set {name} is not on this machine and {url} could not be downloaded ({type(error).__name__}): "
        f"either put {files} into a folder and name it with --data-dir or OCNOPT_DATA, or go online and try again."
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """A gzipped idx file of unsigned bytes: the fourth byte counts the dimensions, each a big-endian int32."""
    raw = gzip.decompress(path.read_bytes())
    dims = raw[3]
    shape = np.frombuffer(raw, ">i4", count=dims, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def read_cifar_archive(path: Path) -> Arrays:
    """The binary version of CIFAR-10: records of one label byte and 3x32x32 colour bytes."""
    with tarfile.open(path) as archive:
        train = np.concatenate([_cifar_batch(archive, f"data_batch_{i}") for i in range(1, 6)])
        test = _cifar_batch(archive, "test_batch")
    return Arrays(*_split_records(train), *_split_records(test))


def _cifar_batch(archive: tarfile.TarFile, batch: str) -> NDArray[np.uint8]:
    member = archive.extractfile(f"cifar-10-batches-bin/{batch}.bin")
    assert member is not None  # the sum was checked: the archive is the published one
    return np.frombuffer(member.read(), np.uint8).reshape(-1, 1 + 3 * 32 * 32)


def _split_records(records: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
