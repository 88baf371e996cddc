"""Work in turns: other tasks run between its items."""

from __future__ import annotations

import asyncio

import pytest

from gateway import turns
from gateway.turns import in_turns


def test_others_have_their_turn_between_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0)
    log: list[str] = []
    note = log.append

    async def work(name: str) -> None:
        async for item in in_turns("123"):
            note(f"{name}{item}")

    async def run() -> None:
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(run())

    assert log == ["a1", "b1", "a2", "b2", "a3", "b3"]
