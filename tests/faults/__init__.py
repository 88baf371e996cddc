"""A worker killed, a broker restarted, a message twice, a message that cannot be read."""
