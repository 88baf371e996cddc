"""`tocsin up`: the embedded servers and tocsin's processes, run as child processes of a supervisor."""
