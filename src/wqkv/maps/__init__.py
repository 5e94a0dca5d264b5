"""The N x N map of one call's weights, which is never built."""
