"""The formula: q, k, v -> output (and lse)."""
