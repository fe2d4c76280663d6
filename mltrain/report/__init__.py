"""Results for people: tables, plots, pages and model cards of runs, and comparisons of runs."""
