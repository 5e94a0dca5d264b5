"""The same models on our attention."""
