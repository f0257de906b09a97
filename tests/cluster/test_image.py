from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.cluster_files import FOLDER, ROOT


def test_image_has_ray_and_our_code_in_a_shell_that_reads_no_file(tmp_path: Path) -> None:
    """The steps of the Dockerfile in a plain folder, with programs that only note how they were called."""
    home, programs = tmp_path / "home", tmp_path / "programs"
    programs.mkdir()
    home.mkdir()
    script = f"""#!/bin/sh
echo "$(basename "$0") $*" >>{tmp_path}/calls
if [ "$2" = venv ]; then mkdir -p "$3/bin"; for name in python ray; do ln -s {programs}/run "$3/bin/$name"; done; fi
case "$(basename "$0") $*" in "python -c "*) exec {sys.executable} "$@" ;; esac
"""
    for name in ("python3.11", "useradd", "run"):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    text = re.sub(r"\\\n\s*", " ", (FOLDER / "Dockerfile").read_text()).replace("/home/ray", str(home))
    image = {"HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin"}
    folder, user = Path("/"), "root"
    for step, rest in (line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")):
        if step == "RUN":
            subprocess.run(["sh", "-c", rest], env=image, cwd=folder, check=True)
        elif step == "COPY":
            owner, source, target = rest.split()
            assert owner == f"--chown={user}"
            copy_of = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            (folder / target if target.endswith("/") else (folder / target).parent).mkdir(parents=True, exist_ok=True)
            copy_of(ROOT / source, folder / target)
        elif step == "ENV":
            for variable in rest.split():
                name, _, value = variable.partition("=")
                image[name] = value.replace("$PATH", image["PATH"])
        elif step == "WORKDIR":
            folder = Path(rest)
        elif step == "USER":
            user = rest
        else:
            assert step == "FROM"
    assert user != "root"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert any(call.startswith("python -m pip install ") and "--require-hashes" in call for call in calls)
    show = "command -v ray; python -c 'import dim_ray.tune, tuning; print(dim_ray.__file__, tuning.__file__)'"
    shell = ["/bin/bash", "-c", "--", f"ulimit -n 1024; {show}"]  # as KubeRay starts Ray
    shown = subprocess.run(shell, env=image, cwd=home, capture_output=True, text=True, check=False)
    code = home / "dim-ray"
    assert shown.stdout.split() == [
        str(home / "dim-ray-environment/bin/ray"),
        str(code / "dim_ray/__init__.py"),
        str(code / "tuning/__init__.py"),
    ], shown.stderr
