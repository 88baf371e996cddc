"""The HTTP gateway, which accepts commands and serves reads. It decides nothing about incidents."""
