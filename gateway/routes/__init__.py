"""Doormen of a few lines each: what every address does, and the list of all addresses."""
