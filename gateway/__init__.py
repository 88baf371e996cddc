"""The HTTP gateway, which accepts commands and serves reads. Decisions about incidents are left to the workers."""
