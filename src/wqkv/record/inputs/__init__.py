"""What a watched model was given, and where it stands among the positions of each map."""
