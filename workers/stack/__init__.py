"""`tocsin up`: real servers and our own processes, as direct children."""
