"""Load scripts and their results: tocsin beside the plain way of doing the same work."""
