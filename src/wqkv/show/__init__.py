"""The face: one story (wqkv.look.story) as a terminal picture, a web page, an image or JSON."""
