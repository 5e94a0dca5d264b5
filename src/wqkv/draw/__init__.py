"""Stories, tables and surveys as text, HTML, pictures and JSON."""
