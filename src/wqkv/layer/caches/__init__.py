"""KV caches: KVCache, what every kind does, is in base.py; each kind has a module of its own."""
