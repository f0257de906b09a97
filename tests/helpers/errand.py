"""A command for jobs of tests: prints a text, waits for a file, and ends with a code, or by a signal if it's negative.

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
    if int(code) < 0:
        os.kill(os.getpid(), -int(code))
    sys.exit(int(code))
