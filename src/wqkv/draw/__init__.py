"""Numbers as text, HTML, pictures and JSON."""
