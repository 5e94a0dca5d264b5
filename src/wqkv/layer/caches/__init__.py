"""The kinds of KVCache."""
