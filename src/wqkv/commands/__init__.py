"""The commands of `wqkv`. What they need is imported when they run, so that --help is quick."""
