"""The view into any model."""
