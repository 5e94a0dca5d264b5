"""What a running model's attention did, as exact values."""
