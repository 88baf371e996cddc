"""Serializers for entities in JSON, as callers see them. Each declaration also yields the entity's OpenAPI schema.

The worker uses them for command outcomes and events, the gateway for reads. Ids are strings. Timestamps are ISO 8601 in
UTC, with microseconds unless they are zero.
"""
