"""`python -m weightscale_fast` is `weightscale`."""

import sys

from .cli import main

sys.exit(main())
