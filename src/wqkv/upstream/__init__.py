"""The names from inside torch and transformers that wqkv uses, in one file for each package.

Each name is looked up when it is first used; an error says which version of the package lacks it.
"""
