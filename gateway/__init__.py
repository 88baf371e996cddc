"""HTTP in, commands out. Decides nothing about incidents."""
