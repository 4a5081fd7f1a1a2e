"""`python -m genxfer` is the command line."""

import sys

from genxfer.cli import main

sys.exit(main())
