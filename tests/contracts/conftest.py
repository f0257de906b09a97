from __future__ import annotations

from tests.core.conftest import one_thread as one_thread
