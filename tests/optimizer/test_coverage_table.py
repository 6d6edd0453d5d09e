"""coverage() is a list of rows, a table as text, and a table that rich prints."""

from __future__ import annotations

import io
import sys

import pytest
from optimizer_cases import TinyTransformer, mlp, sentences, tokens_loss, train
from rich.console import Console
from rich.table import Table

from ocnopt import OCNOpt
from ocnopt.reporting import Coverage, Row


def covered() -> Coverage:
    model = TinyTransformer()
    optimizer = OCNOpt(model)
    tokens_loss(model, sentences()).backward()
    optimizer.step()
    return optimizer.coverage()


def test_it_is_a_list_of_rows() -> None:
    coverage = covered()
    assert isinstance(coverage, list) and all(isinstance(row, Row) for row in coverage)
    assert coverage[0].parameter == "scale" and coverage == [*coverage]


def test_text_is_aligned_and_complete() -> None:
    coverage = covered()
    head, *lines = str(coverage).splitlines()
    assert head.split() == ["parameter", "player", "metric", "feedback", "reason", "terminal"]
    assert len(lines) == len(coverage)
    starts = {name: head.index(name) for name in head.split()}
    for line, row in zip(lines, coverage, strict=True):
        assert line[: starts["player"]].rstrip() == row.parameter
        assert line[starts["metric"] : starts["feedback"]].rstrip() == row.metric
        assert line[starts["feedback"] : starts["reason"]].rstrip() == ("yes" if row.feedback else "no")
        assert line[starts["reason"] : starts["terminal"]].rstrip() == row.reason


def test_columns_that_say_nothing_are_left_out() -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    assert str(optimizer.coverage()).splitlines()[0].split() == ["parameter", "player", "metric", "feedback", "reason"]
    train(model, optimizer, 1)
    columns = str(optimizer.coverage()).splitlines()[0].split()
    assert columns == ["parameter", "player", "metric", "feedback", "terminal"]


def test_nothing_to_tell_is_no_error() -> None:
    assert str(Coverage()) == ""


def test_rich_prints_a_table() -> None:
    coverage = Coverage([Row("[bold].weight", "linear", "eigen", True, "", "true-vs-rest"), *covered()])
    table = coverage.__rich__()
    assert isinstance(table, Table) and table.row_count == len(coverage)
    file = io.StringIO()
    Console(width=400, file=file).print(coverage)
    printed = file.getvalue()
    assert all(row.parameter in printed and row.reason in printed for row in coverage)


def test_text_needs_no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    coverage = covered()
    monkeypatch.setitem(sys.modules, "rich", None)
    assert "parameter" in str(coverage)
    with pytest.raises(ImportError):
        coverage.__rich__()
