"""One file per family of routes: a doorman each."""
