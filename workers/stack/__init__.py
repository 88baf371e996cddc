"""`tocsin up`: embedded servers and tocsin's processes, as child processes of a supervisor."""
