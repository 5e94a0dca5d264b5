"""`python -m wqkv`, the same as the command `wqkv`."""

from wqkv.cli import main

raise SystemExit(main())
