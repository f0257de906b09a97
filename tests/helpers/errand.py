"""A command for jobs of tests: prints what it is told to, waits for a file, and ends with a code.

python -m tests.helpers.errand TEXT FILE CODE
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    text, file, code = sys.argv[1:]
    print(text, os.environ["RAY_ADDRESS"], flush=True)
    while not Path(file).exists():
        time.sleep(0.1)
    print("the end", file=sys.stderr)
    sys.exit(int(code))
