"""The search for titles and rules in the incident list, with an index of the trigrams in each time bucket.

For each incident, the search index also holds keys for its rule, the rule's generation, and its team, environment and
dataset. The search index is not in list order, and the indexes in list order do not hold these keys. A search thus goes
through the list bucket by bucket, starting at the cursor: 32 days at a time, split into 2 days and then 3 hours if more
incidents match than can be sorted. A bucket is one index access, whose cost grows with the number of matches and is
almost zero without any.

A sample of nearby titles decides which of a title's trigrams are looked up: those that are rare, alone or together. The
index also holds the text around each space, because two common words may be rare in combination.
See docs/decisions/0017-title-search-in-time-buckets.md and 0018-rules-in-the-search-index.md.
"""

# ruff: noqa: S608 - the SQL is composed of our own fragments; callers' values are parameters
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from gateway.reads.incident_filters import IncidentFilter
from gateway.reads.incident_list_ranges import (
    CURRENT_GENERATION,
    IN_PROJECTS,
    RULE_COLUMN_LIST,
    Segment,
    rule_conditions,
)
from models.alert_rules.enums import Dataset
from models.incidents.incident import IS_OPEN
from models.incidents.list_projection import (
    AROUND_SPACE,
    BEFORE_SPACE,
    SEARCH_KEYS,
    TIME_BUCKETS,
    TRIGRAM_LENGTH,
    bucket_key,
    long_titles_key,
    search_key,
)
from models.incidents.title_folding import FOLD_TITLE

MAX_TRIGRAMS: Final = 12
"""The maximum number of evenly spaced trigrams that are considered in a title."""

MAX_SPACES: Final = 4
"""The maximum number of spaces in a title for which the surrounding text is considered as well."""

MAX_CHOSEN: Final = 3
"""The maximum number of trigrams that are looked up together."""

SAMPLE_SIZE: Final = 300
"""The maximum number of titles in the sample by which trigrams are chosen."""

RARE_SHARE: Final = 0.01
"""Trigrams are selective enough if all of them occur together in at most this share of the sampled titles."""

MAX_SORTED: Final = 300
"""The maximum number of matches that are sorted in a time bucket. A bucket with more matches is split."""

MAX_PROJECT_SCOPES: Final = 32
"""Up to this many projects are searched one by one. With more projects, the whole organization is searched."""

MAX_SCOPED_KEYS: Final = 160
"""The maximum number of projects times the number of teams or environments that are looked up in each project."""


def can_search(filter_: IncidentFilter) -> bool:
    """Return whether the search index can find rows by the filter's title or rule."""
    return len(filter_.folded_title) >= TRIGRAM_LENGTH or bool(rule_keys(filter_))


def search_scopes(filter_: IncidentFilter) -> list[int]:
    """Return the scopes to search, as the index numbers them: ``~id`` for each project, or the organization's id."""
    widest = max((len(alternatives) for alternatives in rule_keys(filter_)), default=1)
    if len(filter_.projects) <= MAX_PROJECT_SCOPES and len(filter_.projects) * widest <= MAX_SCOPED_KEYS:
        return [~project for project in filter_.projects]
    return [filter_.organization]


# --- choice of trigrams ----------------------------------------------------------------------------------------


class Trigram(NamedTuple):
    """A part of the filter's title: ``length`` characters, starting at position ``at``, which counts from 1 as in SQL.

    The part has three characters, or more if it surrounds a space.
    """

    at: int
    length: int

    @property
    def text(self) -> str:
        """The trigram's characters, as an SQL expression."""
        return f"substr({FOLD_TITLE}(%(title)s), {self.at}, {self.length})"


class Trigrams(NamedTuple):
    """The trigrams to look up. ``or_long`` also finds all titles that are too long to be indexed."""

    chosen: Sequence[Trigram]
    or_long: bool


def choose_trigrams(filter_: IncidentFilter, sample: Sequence[int], *, any_long: bool) -> Trigrams:
    """Return a combination of trigrams that occurs in few of the sampled incidents with a matching rule.

    ``sample`` holds the values of :func:`sample_mask` for nearby rows.
    """
    candidates = _candidates(filter_.folded_title)
    if not candidates:
        return Trigrams([], or_long=False)
    chosen: list[int] = []
    most = min(MAX_CHOSEN, len(candidates))
    left = [mask for mask in sample if mask >> len(candidates) & 1]
    # If there is no sample, the first candidates are chosen.
    while not chosen or ((len(left) > RARE_SHARE * len(sample) or not sample) and len(chosen) < most):
        bits = (bit for bit in range(len(candidates)) if bit not in chosen)
        chosen.append(min(bits, key=lambda bit: (_count(left, bit), _count(sample, bit))))
        left = [mask for mask in left if mask >> chosen[-1] & 1]
    return Trigrams([candidates[bit] for bit in chosen], any_long)


def sample_mask(filter_: IncidentFilter) -> str:
    """Return SQL for a row's bit mask: a bit for each candidate trigram in its title, then a bit for its rule."""
    in_title = [f"strpos(folded_title, {trigram.text}) > 0" for trigram in _candidates(filter_.folded_title)]
    of_rule = " AND ".join(rule_conditions(filter_.rule)) or "true"
    # NULL counts as false.
    bits = (f"coalesce({truth}, false)::int << {bit}" for bit, truth in enumerate([*in_title, of_rule]))
    return " | ".join(f"({bit})" for bit in bits)


def _count(sample: Sequence[int], bit: int) -> int:
    return sum(mask >> bit & 1 for mask in sample)


def _candidates(title: str) -> list[Trigram]:
    """Return the trigrams around spaces, then those at both ends and in the middle, then evenly spaced ones."""
    last = len(title) - TRIGRAM_LENGTH
    if last < 0:
        return []
    steps = max(1, min(MAX_TRIGRAMS - 1, last))
    evenly = (last * step // steps for step in range(steps + 1))
    starts = dict.fromkeys((0, last, last // steps * (steps // 2), *evenly))
    return [*_around_spaces(title)[:MAX_SPACES], *(Trigram(start + 1, TRIGRAM_LENGTH) for start in starts)]


def _around_spaces(title: str) -> list[Trigram]:
    if not title.isascii():
        # Conversion to lower case in PostgreSQL may change the length, which would move the space.
        return []
    starts = range(len(title) - AROUND_SPACE + 1)
    return [Trigram(start + 1, AROUND_SPACE) for start in starts if title[start + BEFORE_SPACE] == " "]


# --- rule keys -------------------------------------------------------------------------------------------------


def rule_keys(filter_: IncidentFilter) -> list[list[str]]:
    """Return the index keys for the filter's rule conditions, as SQL: one list of alternatives per condition."""
    rule, keys = filter_.rule, []
    if rule.alert_rule is not None:
        generation = "" if rule.with_snapshots else f" || ':' || {CURRENT_GENERATION}"
        keys.append([f"'rule:' || %(alert_rule)s::bigint{generation}"])
    if rule.environments:
        keys.append([f"'environment:' || (%(environments)s::text[])[{at + 1}]" for at in range(len(rule.environments))])
    if rule.teams is not None:
        owners = [f"'team:' || (%(teams)s::bigint[])[{at + 1}]" for at in range(len(rule.teams))]
        keys.append([*owners, "'team:'"] if rule.or_unassigned else owners)
    if rule.only_events:
        keys.append([f"'dataset:{Dataset.EVENTS}'"])
    return keys


# --- time bucket by time bucket --------------------------------------------------------------------------------

_ORGANIZATION: Final = "%(organization)s::bigint"


class SearchKeys(NamedTuple):
    """The keys to look up, as SQL.

    A row matches if it has all trigrams in any one of the sets, and at least one key from each list of rule keys.
    """

    trigram_sets: Sequence[Sequence[str]]
    rule_keys: Sequence[Sequence[str]]

    def conditions(self, scope: str, bucket: str, bucket_condition: str) -> Iterator[str]:
        """Yield an indexable condition per trigram set. ``bucket_condition`` is a shorter bucket's key, or empty."""
        alternatives = [[search_key(key, scope, bucket) for key in keys] for keys in self.rule_keys]
        required = [keys[0] for keys in alternatives if len(keys) == 1] + [bucket_condition] * bool(bucket_condition)
        one_of = [f"{SEARCH_KEYS} && ARRAY[{', '.join(keys)}]" for keys in alternatives if len(keys) > 1]
        for trigrams in self.trigram_sets:
            keys = ", ".join([*(search_key(each, scope, bucket) for each in trigrams), *required])
            yield " AND ".join([f"{SEARCH_KEYS} @> ARRAY[{keys}]"] * bool(keys) + one_of)


ANY_LONG: Final = f"""
    WITH long AS MATERIALIZED (
        SELECT FROM incident_titles WHERE {SEARCH_KEYS} @> ARRAY[{long_titles_key(_ORGANIZATION)}]
    )
    SELECT count(*) > 0 FROM (SELECT FROM long LIMIT 1) AS one"""
"""SQL that tells whether the organization has titles that are too long to be indexed."""


def search(segment: Segment, trigrams: Trigrams) -> str:
    """Return the query for a segment's matching keys, in list order.

    The query stops as soon as the LIMIT of the statement around it is reached. It relies on PostgreSQL's execution
    order: a nested loop keeps the order of its outer side, and UNION ALL runs its queries one after the other. ORDER BY
    is used only where rows have to be sorted.
    """
    key_range, longest = segment.key_range, TIME_BUCKETS[0]
    bucket = f"SELECT {longest.number_of('date_started')} AS bucket FROM incident_listing"
    next_bucket = f"{bucket} WHERE organization_id = {_ORGANIZATION}"
    # Step from one bucket with incidents to the next, so that a gap costs nothing.
    beyond = f"< to_timestamp({longest.seconds} * buckets.bucket)"
    if not key_range.is_descending:
        beyond = f">= to_timestamp({longest.seconds} * (buckets.bucket + 1))"
    # The empty text is the key for titles that are too long.
    trigram_sets = [[trigram.text for trigram in trigrams.chosen]] + [["''"]] * trigrams.or_long
    keys = SearchKeys(trigram_sets, rule_keys(segment.filter))
    return f"""
        WITH RECURSIVE buckets AS (
            ({next_bucket} {key_range.condition} {key_range.order} LIMIT 1)
            UNION ALL
            SELECT next.bucket FROM buckets CROSS JOIN LATERAL (
                {next_bucket} {key_range.without_start.condition} AND date_started {beyond} {key_range.order} LIMIT 1
            ) AS next
        )
        SELECT within.* FROM buckets CROSS JOIN LATERAL ({_within(segment, keys, "buckets.bucket")}) AS within"""


def _within(segment: Segment, keys: SearchKeys, bucket: str, level: int = 0, shorter: str | None = None) -> str:
    """Return the query for a bucket's matches, in order. If there are too many, the query splits the bucket.

    ``bucket`` is the number of the longest bucket. ``shorter`` is the number of the bucket at ``level`` inside it.
    """
    bucket_condition = "" if shorter is None else bucket_key(TIME_BUCKETS[level], shorter, _ORGANIZATION)
    matches = _matches(segment, keys, bucket, bucket_condition)
    if level + 1 == len(TIME_BUCKETS):
        return _sorted(matches, segment)
    ratio, name = TIME_BUCKETS[level].seconds // TIME_BUCKETS[level + 1].seconds, f"shorter_{level}"
    first = f"{ratio} * {shorter or bucket}"
    last = f"{first} + {ratio - 1}"
    series = f"{last}, {first}, -1" if segment.key_range.is_descending else f"{first}, {last}, 1"
    return f"""
        WITH found AS MATERIALIZED ({matches}), many AS MATERIALIZED (
            SELECT count(*) > {MAX_SORTED} AS are_there FROM (SELECT FROM found LIMIT {MAX_SORTED + 1}) AS first
        )
        (SELECT few.* FROM ({_sorted("SELECT * FROM found", segment)}) AS few WHERE NOT (SELECT are_there FROM many))
        UNION ALL
        (SELECT each.* FROM generate_series({series}) AS {name}(bucket)
         CROSS JOIN LATERAL ({_within(segment, keys, bucket, level + 1, f"{name}.bucket")}) AS each
         WHERE (SELECT are_there FROM many))"""


def _matches(segment: Segment, keys: SearchKeys, bucket: str, bucket_condition: str) -> str:
    """Return the query for the rows that the index finds in a bucket. The rows are neither sorted nor checked yet."""
    more = ", status, date_closed" if segment.is_open_only else ""
    columns = f"incident_id, project_id, date_started, folded_title, {RULE_COLUMN_LIST}{more}"
    matches = " UNION ALL ".join(
        f"SELECT {columns} FROM {_searched_table(segment)} {condition}"
        for condition in keys.conditions("scope", bucket, bucket_condition)
    )
    return f"SELECT found.* FROM unnest(%(scopes)s::bigint[]) AS scope CROSS JOIN LATERAL ({matches}) AS found"


def _searched_table(segment: Segment) -> str:
    # Open incidents have their own search index, because they would be few among all matches.
    return f"incident_listing WHERE {IS_OPEN} AND" if segment.is_open_only else "incident_titles WHERE"


def _sorted(matches: str, segment: Segment) -> str:
    """Return the query that checks matches against the filter and sorts their keys."""
    condition, listed = segment.condition, ""
    if not segment.is_open_only and condition.strip():
        # The row in incident_listing is looked up by its key. For a join, the planner might read the whole table.
        condition, listed = (
            "",
            f"""CROSS JOIN LATERAL (
            SELECT FROM incident_listing AS l
            WHERE (l.incident_id, l.project_id) = (f.incident_id, f.project_id) {segment.condition} LIMIT 1
        ) AS listed""",
        )
    key_range = segment.key_range
    return f"""
        SELECT DISTINCT f.date_started, f.incident_id FROM (
            SELECT * FROM ({matches}) AS all_found
            WHERE {IN_PROJECTS} {condition} AND {segment.matches} {key_range.condition}
        ) AS f {listed} {key_range.order}"""
