"""Statements for many rows, and checks of their columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.base import require_columns


def a_result(*names: str) -> Any:
    return cast(Any, SimpleNamespace(keys=lambda: names))


def test_the_expected_columns_pass() -> None:
    require_columns(a_result("id", "seq"), ("id", "seq"))


@pytest.mark.parametrize("names", [("seq", "id"), ("id",), ("id", "seq", "type"), ()], ids=str)
def test_other_columns_are_rejected_and_named(names: tuple[str, ...]) -> None:
    with pytest.raises(RuntimeError, match="not id, seq"):
        require_columns(a_result(*names), ("id", "seq"))
