"""What a run leaves behind to read: tables, per-class figures, result.json."""
