"""Where named data sets come from: a folder, scikit-learn, parquet files, downloads."""

from __future__ import annotations

import gzip
import io
import math
import tarfile
from pathlib import Path

import numpy as np
import pooch
import pyarrow
import pyarrow.parquet
import pytest
import requests
import torch
from PIL import Image

from ocnopt_lab import data
from ocnopt_lab.data import download, parquet
from ocnopt_lab.errors import LabError

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, size=(20, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(20) % 10


def test_digits_and_wine_are_split_alike_every_time() -> None:
    for name, classes, samples in (("digits", 10, 1797), ("wine", 3, 178)):
        one, two = data.load(name), data.load(name)
        assert torch.equal(one.x_test, two.x_test) and one.outputs == classes
        assert len(one.y_test) == math.ceil(0.2 * samples) and len(one.y_train) + len(one.y_test) == samples
        shares = [torch.bincount(y) / len(y) for y in (one.y_train, one.y_test)]
        torch.testing.assert_close(*shares, atol=0.02, rtol=0)


def test_the_data_folder_comes_from_the_environment_too(tmp_path: Path, images, monkeypatch) -> None:
    np.savez(tmp_path / "mnist.npz", **images)
    monkeypatch.setenv("OCNOPT_DATA", str(tmp_path))
    assert torch.equal(data.load("mnist").x_train, data.load("mnist", data_dir=tmp_path).x_train)


def test_a_data_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"nowhere \(from --data-dir\) does not exist"):
        data.load("mnist", data_dir=tmp_path / "nowhere")


def compressed(format: str) -> list[bytes]:
    """The pictures, compressed without loss where the format can."""
    result = []
    for picture in PICTURES:
        Image.fromarray(picture).save(buffer := io.BytesIO(), format)
        result.append(buffer.getvalue())
    return result


def write_own_layout(folder: Path) -> None:
    for split in ("train", "test"):
        table = pyarrow.table({"index": range(20), "label": LABELS.astype(np.uint8), "jpeg": compressed("JPEG")})
        pyarrow.parquet.write_table(table, folder / f"cifar10_{split}_jpeg75.parquet", compression="zstd")


def write_hugging_face_layout(folder: Path) -> None:
    (folder / "plain_text").mkdir()
    for split in ("train", "test"):
        column = [{"bytes": picture, "path": None} for picture in compressed("PNG")]
        table = pyarrow.table({"img": column, "label": LABELS})
        pyarrow.parquet.write_table(table, folder / "plain_text" / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("write", [write_own_layout, write_hugging_face_layout])
def test_cifar_is_decoded_once(tmp_path: Path, write, monkeypatch) -> None:
    write(tmp_path)
    first = data.load("cifar10", data_dir=tmp_path)
    assert first.in_shape == (3, 32, 32) and first.y_train.tolist() == LABELS.tolist()
    monkeypatch.setattr(parquet, "_decode", None)
    assert torch.equal(data.load("cifar10", data_dir=tmp_path).x_train, first.x_train)


def test_hugging_face_pictures_are_read_exactly(tmp_path: Path) -> None:
    write_hugging_face_layout(tmp_path)
    splits = parquet.find(tmp_path)
    assert splits is not None
    arrays = parquet.read(splits)
    np.testing.assert_array_equal(arrays.x_train, PICTURES)


def test_changed_files_are_decoded_anew(tmp_path: Path) -> None:
    write_own_layout(tmp_path)
    data.load("cifar10", data_dir=tmp_path)
    write_own_layout(tmp_path)
    data.load("cifar10", data_dir=tmp_path)
    assert len(list((tmp_path / "cache").glob("cifar10-*.npz"))) == 2


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"picture": [b"x"], "label": [0]}, "has the columns picture, label"),
        ({"jpeg": [b"x"], "label": [0]}, "decoded"),
    ],
)
def test_parquet_files_of_something_else_get_a_sentence(tmp_path: Path, columns, sentence: str) -> None:
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"cifar10_{split}.parquet")
    with pytest.raises(LabError, match=sentence):
        data.load("cifar10", data_dir=tmp_path)


def test_a_broken_parquet_file_gets_a_sentence(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"cifar10_{split}.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(LabError, match="not a readable parquet file"):
        data.load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_without_network_both_ways_are_named(name: str, monkeypatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise requests.exceptions.ConnectionError

    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(LabError, match=rf"{name}\.npz.*--data-dir or OCNOPT_DATA, or go online"):
        data.load(name)


def test_idx_files_are_read(tmp_path: Path) -> None:
    pictures = PICTURES[:, :28, :28, 0]
    header = bytes([0, 0, 8, 3]) + np.array(pictures.shape, ">i4").tobytes()
    (tmp_path / "idx.gz").write_bytes(gzip.compress(header + pictures.tobytes()))
    np.testing.assert_array_equal(download.read_idx(tmp_path / "idx.gz"), pictures)


def test_the_cifar_archive_is_read(tmp_path: Path) -> None:
    records = np.concatenate([LABELS[:, None].astype(np.uint8), PICTURES.transpose(0, 3, 1, 2).reshape(20, -1)], axis=1)
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for batch in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{batch}.bin")
            member.size = records.nbytes
            archive.addfile(member, io.BytesIO(records.tobytes()))
    arrays = download.read_cifar_archive(path)
    assert len(arrays.x_train) == 100
    np.testing.assert_array_equal(arrays.x_test.transpose(0, 2, 3, 1), PICTURES)
    np.testing.assert_array_equal(arrays.y_test, LABELS)
