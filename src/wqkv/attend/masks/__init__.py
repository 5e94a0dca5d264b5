"""Who may see whom, as values."""
