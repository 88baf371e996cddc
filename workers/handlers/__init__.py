"""One plain function per command: facts in, changes and news out."""
