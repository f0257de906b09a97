from __future__ import annotations

import base64
import subprocess
import sys

from ray import cloudpickle

from dim_ray.distributed.address import make_address_hook


def test_hook_needs_nothing_of_ours_in_the_workers_process() -> None:
    """A worker runs it before it knows where our code is."""
    data = base64.b64encode(cloudpickle.dumps(make_address_hook())).decode()
    code = (
        "import base64, os, sys, types\n"
        "sys.modules['dim_ray'] = None  # can't be imported\n"
        "context = types.SimpleNamespace(gcs_address='10.0.0.7:6379')\n"
        "sys.modules['ray'] = types.SimpleNamespace(get_runtime_context=lambda: context)\n"
        "import pickle\n"
        f"pickle.loads(base64.b64decode('{data}'))()\n"
        "print(os.environ['RAY_ADDRESS'])\n"
    )
    # cloudpickle's own helpers are imported from ray, before it is replaced
    code = "import ray.cloudpickle\n" + code
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (result.stdout, result.returncode) == ("10.0.0.7:6379\n", 0), result.stderr
