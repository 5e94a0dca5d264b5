"""To and from the attention layers of others."""
