"""The private and version-dependent names of other packages that wqkv relies on."""
