"""Commands of the command line, one module per command: its help (the docstring), its options and its work."""
