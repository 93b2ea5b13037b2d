"""`python -m meshlite`."""

import sys

from meshlite.cli import main

sys.exit(main())
