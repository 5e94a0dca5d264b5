"""The matrices: words -> q, k, v -> output."""
