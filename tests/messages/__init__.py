"""Samples of every version of every message, which this release must still read.

An upgrade meets messages of the release before it: commands in the ledger, events in the outbox and on the bus, hints
on the Celery queues. A sample holds one such message exactly as it was stored:

- ``commands/TYPE-VERSION.json``: the payload of a command in the ledger,
- ``events/TYPE-VERSION.json``: the body of an event, a CloudEvent,
- ``hint-VERSION.json``: the arguments of a Celery task.

A sample is never edited or deleted, because a message like it may still be waiting somewhere. When a change alters
what is stored, the test that compares the newest sample with what is stored today fails and shows the new message:
save it as the next version, ``TYPE-2.json``. Every version is then applied or read by the tests, so a message can only
grow: new fields need defaults, and the meaning of a field does not change.
"""
