"""The page in the browser, and what answers it."""
