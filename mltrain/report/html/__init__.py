"""Pages to look at in a browser: one for a run, one that compares several. Each is one file that needs no network."""
