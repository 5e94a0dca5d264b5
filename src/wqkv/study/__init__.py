"""One model, one text: every number, asked for one at a time."""
