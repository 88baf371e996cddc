"""Incidents, their activities and subscriptions, and the projection of their list."""
