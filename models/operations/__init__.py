"""The service layer of operations: what the dashboard, ``/ops/api`` and the command line read and change.

Reads return the JSON entities of :mod:`models.serializers.operations`. Every change is a transaction of its own with an
entry in the audit log; the caller commits. All functions take a synchronous connection: the gateway calls them through
``AsyncConnection.run_sync``. None of them asks the broker, see :mod:`tasks.broker_status`.
"""
