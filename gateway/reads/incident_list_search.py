"""A part of a title, or a rule, found by an index that knows which three letters stand in which titles, and when.

The same index knows of each incident the rule that found it, in which generation, and the rule's team, environment and
dataset. It has no order, and the order of the list knows nothing of all this. So the list is gone through era by era,
from the cursor on: 32 days at a time, and where those hold too much to be sorted, 2 days, then 3 hours. An era is one
look into the index: next to nothing if none of its incidents has what is asked, and else what is found there is what is
shown.

Which of its letters a part is searched by is learned from titles nearby: those that are rare, alone or together. The
index also knows the letters around each space, since two words may be common, and rare side by side.
"""

# ruff: noqa: S608 - statements are put together from words of our own; what callers say goes along as parameters
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from gateway.reads.incident_filters import IncidentFilter
from gateway.reads.incident_list_ranges import GENERATION, OF_PROJECTS, OF_RULE, Part, conditions_of_rule
from models.incidents.incident import IS_OPEN
from models.incidents.list_projection import (
    AROUND_SPACE,
    BEFORE_SPACE,
    ERAS,
    LETTERS,
    TITLE_KEYS,
    era_key,
    letters_key,
    long_key,
)

MOST_LETTERS: Final = 12
MOST_SPACES: Final = 4
"""How many letters of a part are looked at, to find the rare ones, and how many spaces."""

MOST_CHOSEN: Final = 3

SAMPLE: Final = 300
"""How many titles are looked at for it."""

RARE: Final = 0.01
"""Letters that fewer have together need no more beside them."""

FEW: Final = 300
"""What an era may hold and be sorted at once."""

MOST_NAMED: Final = 32
"""Up to so many projects are searched one by one; of more, the organization is searched."""

MOST_NAMES: Final = 160
"""And for each of them up to so many teams or environments, all in all."""


def can_search(selection: IncidentFilter) -> bool:
    """Whether the index knows anything of what is asked."""
    return len(selection.title) >= LETTERS or bool(facts_of(selection))


def named(selection: IncidentFilter) -> list[int]:
    """Whose letters are searched for, as the index knows them: each project's, or the organization's."""
    widest = max((len(fact) for fact in facts_of(selection)), default=1)
    if len(selection.projects) <= MOST_NAMED and len(selection.projects) * widest <= MOST_NAMES:
        return [~project for project in selection.projects]
    return [selection.organization]


# --- by which letters ------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Letters of the title that is asked for: from the one ``at`` on, counted from 1 as the database does."""

    at: int
    length: int

    @property
    def letters(self) -> str:
        """Those, as SQL."""
        return f"substr(lower(%(title)s), {self.at}, {self.length})"


class Letters(NamedTuple):
    """Letters to search by; ``or_long`` looks at the titles as well that have too many of them."""

    places: Sequence[Place]
    or_long: bool


def letters_of(selection: IncidentFilter, sample: Sequence[int], *, any_long: bool) -> Letters:
    """The letters that the fewest of the sample have beside what is asked of the rule: the masks of rows nearby."""
    known = _places(selection.title)
    if not known:
        return Letters([], or_long=False)
    picked: list[int] = []
    left = [each for each in sample if each >> len(known) & 1]
    # Without a sample those that come first.
    while not picked or ((len(left) > RARE * len(sample) or not sample) and len(picked) < min(MOST_CHOSEN, len(known))):
        bits = (bit for bit in range(len(known)) if bit not in picked)
        picked.append(min(bits, key=lambda bit: (_how_many(left, bit), _how_many(sample, bit))))
        left = [each for each in left if each >> picked[-1] & 1]
    return Letters([known[bit] for bit in picked], any_long)


def mask(selection: IncidentFilter) -> str:
    """Which of the title's letters a row has, a bit for each, and one for the rule that is asked for, as SQL."""
    letters = [f"strpos(folded_title, {place.letters}) > 0" for place in _places(selection.title)]
    of_rule = " AND ".join(conditions_of_rule(selection.rule)) or "true"
    # What is not known counts for no.
    bits = (f"coalesce({truth}, false)::int << {bit}" for bit, truth in enumerate([*letters, of_rule]))
    return " | ".join(f"({bit})" for bit in bits)


def _how_many(sample: Sequence[int], bit: int) -> int:
    return sum(each >> bit & 1 for each in sample)


def _places(title: str) -> list[Place]:
    """Around spaces, then at both ends and in the middle, then evenly between."""
    last = len(title) - LETTERS
    if last < 0:
        return []
    steps = max(1, min(MOST_LETTERS - 1, last))
    evenly = (last * step // steps for step in range(steps + 1))
    starts = dict.fromkeys((0, last, last // steps * (steps // 2), *evenly))
    return [*_spaces(title)[:MOST_SPACES], *(Place(start + 1, LETTERS) for start in starts)]


def _spaces(title: str) -> list[Place]:
    if not title.isascii():
        # The database's lower case may have more letters, and the space be elsewhere.
        return []
    starts = range(len(title) - AROUND_SPACE + 1)
    return [Place(start + 1, AROUND_SPACE) for start in starts if title[start + BEFORE_SPACE] == " "]


# --- by what of the rule ---------------------------------------------------------------------------------------


def facts_of(selection: IncidentFilter) -> list[list[str]]:
    """What is asked of the rule, as the index calls it: of each list of SQL texts one has to be true."""
    wish, facts = selection.rule, []
    if wish.alert_rule is not None:
        generation = "" if wish.with_snapshots else f" || ':' || {GENERATION}"
        facts.append([f"'rule:' || %(alert_rule)s::bigint{generation}"])
    if wish.environments:
        facts.append(
            [f"'environment:' || (%(environments)s::text[])[{at + 1}]" for at in range(len(wish.environments))]
        )
    if wish.teams is not None:
        owners = [f"'team:' || (%(teams)s::bigint[])[{at + 1}]" for at in range(len(wish.teams))]
        facts.append([*owners, "'team:'"] if wish.or_unassigned else owners)
    if wish.only_events:
        facts.append(["'dataset:events'"])
    return facts


# --- era by era ------------------------------------------------------------------------------------------------

_ORGANIZATION: Final = "%(organization)s::bigint"


class Keys(NamedTuple):
    """What to look up, as SQL texts: all letters of one of the sets, and one of each list of facts."""

    sets: Sequence[Sequence[str]]
    facts: Sequence[Sequence[str]]

    def conditions(self, name: str, era: str, also: str) -> Iterator[str]:
        """Those of each set; ``also`` is one more key, unless it is empty."""
        facts = [[letters_key(each, name, era) for each in fact] for fact in self.facts]
        alone = [fact[0] for fact in facts if len(fact) == 1] + [also] * bool(also)
        one_of = [f"{TITLE_KEYS} && ARRAY[{', '.join(fact)}]" for fact in facts if len(fact) > 1]
        for set_ in self.sets:
            keys = ", ".join([*(letters_key(each, name, era) for each in set_), *alone])
            yield " AND ".join([f"{TITLE_KEYS} @> ARRAY[{keys}]"] * bool(keys) + one_of)


ANY_LONG: Final = f"""
    WITH long AS MATERIALIZED (SELECT FROM incident_titles WHERE {TITLE_KEYS} @> ARRAY[{long_key(_ORGANIZATION)}])
    SELECT count(*) > 0 FROM (SELECT FROM long LIMIT 1) AS one"""
"""Whether there are titles with more letters than the index has room for."""


def search(part: Part, letters: Letters) -> str:
    """The incidents of a part that have the title and the rule, in their order; read no further than is needed.

    The statement counts on this: a nested loop keeps the order of its outer side, and one query after the other is what
    ``UNION ALL`` is. Only where rows are sorted is it said.
    """
    span, longest = part.span, ERAS[0]
    era = f"SELECT {longest.of('date_started')} AS era FROM incident_listing WHERE organization_id = {_ORGANIZATION}"
    # From one era that has incidents to the next: a gap costs nothing.
    beyond = f"< to_timestamp({longest.seconds} * eras.era)"
    if not span.falls:
        beyond = f">= to_timestamp({longest.seconds} * (eras.era + 1))"
    sets = [[place.letters for place in letters.places]] + [["''"]] * letters.or_long
    keys = Keys(sets, facts_of(part.selection))
    return f"""
        WITH RECURSIVE eras AS (
            ({era} {span.condition} {span.order} LIMIT 1)
            UNION ALL
            SELECT next.era FROM eras CROSS JOIN LATERAL (
                {era} {span.ahead.condition} AND date_started {beyond} {span.order} LIMIT 1
            ) AS next
        )
        SELECT within.* FROM eras CROSS JOIN LATERAL ({_within(part, keys, "eras.era")}) AS within"""


def _within(part: Part, keys: Keys, era: str, length: int = 0, deeper: str | None = None) -> str:
    """What is found in an era of the longest kind; or ``deeper``, in one of the others."""
    also = "" if deeper is None else era_key(ERAS[length], deeper, _ORGANIZATION)
    found = _found(part, keys, era, also)
    if length + 1 == len(ERAS):
        return _page_of(found, part)
    ratio, shorter = ERAS[length].seconds // ERAS[length + 1].seconds, f"shorter_{length}"
    begin = f"{ratio} * {deeper or era}"
    series = f"{begin} + {ratio - 1}, {begin}, -1" if part.span.falls else f"{begin}, {begin} + {ratio - 1}, 1"
    return f"""
        WITH found AS MATERIALIZED ({found}), many AS MATERIALIZED (
            SELECT count(*) > {FEW} AS are_there FROM (SELECT FROM found LIMIT {FEW + 1}) AS first
        )
        (SELECT few.* FROM ({_page_of("SELECT * FROM found", part)}) AS few WHERE NOT (SELECT are_there FROM many))
        UNION ALL
        (SELECT each.* FROM generate_series({series}) AS {shorter}(era)
         CROSS JOIN LATERAL ({_within(part, keys, era, length + 1, f"{shorter}.era")}) AS each
         WHERE (SELECT are_there FROM many))"""


def _found(part: Part, keys: Keys, era: str, also: str) -> str:
    """The incidents of an era that have one set of letters or the other, and what is asked of the rule."""
    more = ", status, date_closed" if part.is_unfinished else ""
    columns = f"incident_id, project_id, date_started, folded_title, {OF_RULE}{more}"
    found = " UNION ALL ".join(
        f"SELECT {columns} FROM {_titles(part)} {condition}" for condition in keys.conditions("name", era, also)
    )
    return f"SELECT found.* FROM unnest(%(named)s::bigint[]) AS name CROSS JOIN LATERAL ({found}) AS found"


def _titles(part: Part) -> str:
    # What is not closed has an index of its own: it would be lost among everything else.
    return f"incident_listing WHERE {IS_OPEN} AND" if part.is_unfinished else "incident_titles WHERE"


def _page_of(found: str, part: Part) -> str:
    stands, listed = part.stands, ""
    if not part.is_unfinished and stands.strip():
        # One row, found by its key: a join that the database chooses might read them all.
        stands, listed = (
            "",
            f"""CROSS JOIN LATERAL (
            SELECT FROM incident_listing AS l
            WHERE (l.incident_id, l.project_id) = (f.incident_id, f.project_id) {part.stands} LIMIT 1
        ) AS listed""",
        )
    return f"""
        SELECT DISTINCT f.date_started, f.incident_id FROM (
            SELECT * FROM ({found}) AS all_found WHERE {OF_PROJECTS} {stands} AND {part.is_found} {part.span.condition}
        ) AS f {listed} {part.span.order}"""
