"""`python -m ocnopt_lab` is the command `ocnopt`."""

import sys

from ocnopt_lab.cli import main

sys.exit(main())
