"""Incidents, their activities and subscriptions, and the read model of their list."""
