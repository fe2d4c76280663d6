"""The commands, a module each, named as the command: its help (the docstring), its options and its work."""
