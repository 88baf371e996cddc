"""How many unread items the commands of a batch select from one inbox."""

from __future__ import annotations

from workers.batch.inbox_facts import Selection, UnreadItems, UnreadRange


def unread_items() -> UnreadItems:
    """Return an inbox with the unread items 1, 2, 3, 7 and 9, for commands up to 3 and 8 and for the ids 2, 7 and 9."""
    return UnreadItems({2, 7, 9}, [UnreadRange(8, 1, 7), UnreadRange(3, 3, 3)])


def test_an_item_counts_only_for_the_first_command_that_marks_it() -> None:
    items = unread_items()

    assert items.mark_named([2, 9, 100]) == {2, 9}
    assert items.mark_named([2]) == set()
    assert items.mark_up_to(3) == Selection(2, 3)
    assert items.mark_up_to(8) == Selection(1, 7)
    assert items.mark_named([7]) == set()


def test_a_command_up_to_a_higher_id_also_marks_the_lower_ranges() -> None:
    items = unread_items()

    assert items.mark_up_to(8) == Selection(4, 7)
    assert items.mark_up_to(3).size == 0
    assert items.mark_named([7, 9]) == {9}


def test_an_item_about_an_incident_counts_only_once() -> None:
    items = UnreadItems({2}, [UnreadRange(8, 3, 7)], {5: [2, 7]})

    assert items.mark_incident(6) == set()
    assert items.mark_incident(5) == {2, 7}
    assert items.mark_named([2, 7]) == set()
    assert items.mark_up_to(8).size == 1


def test_an_inbox_without_unread_items_has_nothing_to_mark() -> None:
    assert UnreadItems().mark_up_to(8) == Selection(0, 0)
    assert UnreadItems().mark_named([8]) == set()
