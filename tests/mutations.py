"""Mutations: code that is broken on purpose, which a test has to notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

Mutation = tuple[Any, str, Any, Callable[[], Any]]
"""An owner, the name of its attribute, what that becomes, and the test that then fails."""


def require_noticed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless the test does."""
    owner, name, new, test = mutation
    monkeypatch.setattr(owner, name, new)
    with pytest.raises(AssertionError):
        test()


@contextmanager
def nothing_kept(tensors: Any) -> Iterator[list[bool]]:
    """In place of ``tensors_kept_unless``."""
    yield []
