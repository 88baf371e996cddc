"""Incidents, their activities and subscriptions, and the projection for the incident list."""
