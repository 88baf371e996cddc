"""The processes that apply commands, publish events and notify people, and the command line."""
