"""`python -m b2diffurl.cli`."""

from b2diffurl.cli import main

raise SystemExit(main())
