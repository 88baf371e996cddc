"""The HTTP gateway: accepts commands and serves reads. It decides nothing about incidents."""
