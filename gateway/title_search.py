"""A part of a title, found by its letters: an index knows which three letters stand in which titles, and when.

An index of letters has no order, and an order knows no letters. So the list is gone through era by era, from the cursor
on: 64 days at a time, and where those hold too much to be sorted, 4 days, then 6 hours. An era is one look into the
index: next to nothing if none of its titles has the letters, and else what is found there is what is shown.

Which of its letters a part is searched by is learned from titles nearby: those that are rare, alone or together.
"""

# ruff: noqa: S608 - statements are put together from words of our own; what callers say goes along as parameters
from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.list_parts import HAS_TITLE, OF_PROJECTS, Part
from gateway.selection import Selection
from models.listing import ERAS, LETTERS, LONG_TITLE, TITLE_KEYS

MOST_LETTERS: Final = 12
"""How many letters of a part are looked at, to find the rare ones."""

MOST_CHOSEN: Final = 3

SAMPLE: Final = 300
"""How many titles are looked at for it."""

FREQUENT: Final = 0.05
RARE: Final = 0.01

FEW: Final = 300
"""What an era may hold and be sorted at once."""

MOST_NAMED: Final = 16
"""Up to so many projects are searched one by one; of more, the organization is searched."""


def has_letters(title: str) -> bool:
    """Whether it is long enough for the index."""
    return len(title) >= LETTERS


def named(selection: Selection) -> list[int]:
    """Whose letters are searched for, as the index knows them: each project's, or the organization's."""
    if len(selection.projects) <= MOST_NAMED:
        return [~project for project in selection.projects]
    return [selection.organization]


# --- by which letters ------------------------------------------------------------------------------------------


class Letters(NamedTuple):
    """What to search by: places in a title.

    ``are_common`` says that the title is missing although they are frequent: then there may be few of it anywhere.
    """

    places: tuple[int, ...]
    are_common: bool


def letters_of(title: str, sample: Sequence[int], *, is_nearby: bool) -> Letters:
    """The letters that the fewest of the sample have together; ``sample`` are the masks of titles nearby."""
    known = _places(title)
    if not sample:
        return Letters(tuple(sorted({known[0], known[len(known) // 2], known[-1]})), are_common=False)
    picked = [_rarest(known, (), sample)]
    left = alone = [each for each in sample if each >> picked[0] & 1]
    while len(left) > RARE * len(sample) and len(picked) < min(MOST_CHOSEN, len(known)):
        picked.append(_rarest(known, picked, left))
        left = [each for each in left if each >> picked[-1] & 1]
    return Letters(
        tuple(known[bit] for bit in picked), are_common=not is_nearby and len(alone) > FREQUENT * len(sample)
    )


def mask(title: str) -> str:
    """Which of the title's letters a row has, a bit for each, as SQL."""
    bits = (f"(strpos(folded_title, {_at(place)}) > 0)::int << {bit}" for bit, place in enumerate(_places(title)))
    return " | ".join(f"({bit})" for bit in bits)


def _rarest(known: Sequence[int], picked: Sequence[int], sample: Sequence[int]) -> int:
    left = (bit for bit in range(len(known)) if bit not in picked)
    return min(left, key=lambda bit: sum(each >> bit & 1 for each in sample))


def _places(title: str) -> list[int]:
    """Where letters are taken from, counted from 1 as the database does: at both ends, and evenly between."""
    last = len(title) - LETTERS
    steps = max(1, min(MOST_LETTERS - 1, last))
    return sorted({1 + last * step // steps for step in range(steps + 1)})


def _at(place: int) -> str:
    return f"substr(lower(%(title)s), {place}, {LETTERS})"


# --- era by era ------------------------------------------------------------------------------------------------


def search(part: Part, letters: Letters) -> str:
    """The incidents of a part that have the title, in their order; read no further than is needed.

    The statement counts on this: a nested loop keeps the order of its outer side, and one query after the other is what
    ``UNION ALL`` is. Only where rows are sorted is it said.
    """
    eras = _Eras(part, letters)
    return eras.all_at_once() if letters.are_common else eras.each()


class _Eras:
    def __init__(self, part: Part, letters: Letters) -> None:
        self._part = part
        self._letters = [f"hashtextextended({_at(place)}, name)" for place in letters.places]

    def all_at_once(self) -> str:
        """Few in all eras together, or else era by era."""
        return self._few_or(self._found(""), self.each())

    def each(self) -> str:
        """From one era that has incidents to the next: a gap costs nothing."""
        span, longest = self._part.span, ERAS[0]
        beyond = (
            f"date_started < to_timestamp({longest.seconds} * eras.era)"
            if span.falls
            else f"date_started >= to_timestamp({longest.seconds} * (eras.era + 1))"
        )
        era = f"""SELECT {longest.of("date_started")} AS era FROM incident_listing
            WHERE organization_id = %(organization)s {span.condition}"""
        return f"""
            WITH RECURSIVE eras AS (
                ({era} {span.order} LIMIT 1)
                UNION ALL
                SELECT next.era FROM eras CROSS JOIN LATERAL ({era} AND {beyond} {span.order} LIMIT 1) AS next
            )
            SELECT within.* FROM eras CROSS JOIN LATERAL ({self._within(0, "eras.era")}) AS within"""

    def _within(self, length: int, era: str) -> str:
        found = self._found(ERAS[length].key(era))
        if length + 1 == len(ERAS):
            return self._page_of(found)
        ratio, deeper = ERAS[length].seconds // ERAS[length + 1].seconds, f"e{length}"
        begin, end = f"{ratio} * {era}", f"{ratio} * {era} + {ratio - 1}"
        series = f"{end}, {begin}, -1" if self._part.span.falls else f"{begin}, {end}, 1"
        return self._few_or(
            found,
            f"""SELECT within.* FROM generate_series({series}) AS {deeper}(era)
            CROSS JOIN LATERAL ({self._within(length + 1, f"{deeper}.era")}) AS within""",
        )

    def _few_or(self, found: str, otherwise: str) -> str:
        return f"""
            WITH found AS MATERIALIZED ({found}), many AS MATERIALIZED (
                SELECT count(*) > {FEW} AS are_there FROM (SELECT FROM found LIMIT {FEW + 1}) AS first
            )
            (SELECT few.* FROM ({self._page_of("SELECT * FROM found")}) AS few
             WHERE NOT (SELECT are_there FROM many))
            UNION ALL
            (SELECT more.* FROM ({otherwise}) AS more WHERE (SELECT are_there FROM many))"""

    def _found(self, era_key: str) -> str:
        era = [f"hashtextextended({era_key}, %(organization)s::bigint)"] * bool(era_key)
        long = [f"hashtextextended('{LONG_TITLE}', name)"]
        letters, long_one = (", ".join(keys + era) for keys in (self._letters, long))
        return f"""
            SELECT found.* FROM unnest(%(named)s::bigint[]) AS name CROSS JOIN LATERAL (
                SELECT incident_id, project_id, date_started, folded_title FROM incident_titles
                WHERE {TITLE_KEYS} @> ARRAY[{letters}] OR {TITLE_KEYS} @> ARRAY[{long_one}]
            ) AS found"""

    def _page_of(self, found: str) -> str:
        part = self._part
        # One row, found by its key: a join that the database chooses might read them all.
        standing = f"""CROSS JOIN LATERAL (
            SELECT FROM incident_listing AS l
            WHERE (l.incident_id, l.project_id) = (f.incident_id, f.project_id) {part.stands} LIMIT 1
        ) AS listed"""
        return f"""
            SELECT DISTINCT f.date_started, f.incident_id FROM (
                SELECT * FROM ({found}) AS all_found WHERE {OF_PROJECTS} AND {HAS_TITLE} {part.span.condition}
            ) AS f {standing if part.stands.strip() else ""} {part.span.order}"""
