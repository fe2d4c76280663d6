"""A run before, while and after it trains: its parts wired together, its folder read, its model used."""
