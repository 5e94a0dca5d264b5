"""What an answer rests on: predicted effects of links, and true ones by removal."""
