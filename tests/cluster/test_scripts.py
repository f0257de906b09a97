from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.cluster_files import FOLDER, head_port

SCRIPTS = sorted(FOLDER.glob("*.sh"))
LOGIN = "source ~/.bashrc; "  # as Ray gives its commands


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_is_one_that_bash_can_read(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=False).stderr == b""


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_pleases_shellcheck(script: Path) -> None:
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


class Node:
    """A home, and an environment whose programs say how they were called."""

    def __init__(self, folder: Path) -> None:
        self.home, self.environment = folder / "home", folder / "environment"
        self.calls = folder / "calls"
        self.checkout = folder / "checkout"
        shutil.copytree(FOLDER, self.checkout / "cluster")
        watcher = self.checkout / "cluster" / "leave_with_head.sh"
        watcher.write_text(f'echo "watches $*" >>{self.calls}\n')
        self.home.mkdir()
        (self.environment / "bin").mkdir(parents=True)
        for program in ("python", "ray"):
            path = self.environment / "bin" / program
            path.write_text(f'#!/bin/sh\necho "{program} $* ($RAY_AUTH_MODE)" >>{self.calls}\n')
            path.chmod(0o755)

    def run(self, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.bash(str(self.checkout / "cluster" / script), *map(str, arguments))

    def bash(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", *arguments],
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_environment_gets_what_is_locked_with_hashes_checked(node: Node) -> None:
    assert node.run("setup_node.sh", node.environment).returncode == 0
    (call,) = node.calls.read_text().splitlines()
    assert call.startswith("python -m pip install ")
    assert "--require-hashes" in call
    assert f"--requirement {node.checkout / 'requirements.lock'}" in call


def test_every_shell_of_a_node_knows_environment_code_and_authentication(node: Node) -> None:
    (node.home / ".bashrc").write_text('[ -n "$PS1" ] || return\necho interactive\n')
    assert node.run("setup_node.sh", node.environment).returncode == 0
    show = "echo $PYTHONPATH $RAY_AUTH_MODE ${RAY_ADDRESS-none} $(command -v ray)"
    for shell in (["--login", "-c", show], ["-c", LOGIN + show], ["--login", "-c", "-i", LOGIN + show]):
        said = node.bash(*shell).stdout.splitlines()[-1].split()
        assert said == [str(node.checkout), "token", "none", str(node.environment / "bin" / "ray")]


def test_shells_of_the_head_alone_join_the_cluster(node: Node) -> None:
    node.run("setup_node.sh", node.environment)
    assert node.run("setup_node.sh", "--head").returncode == 0
    assert node.bash("--login", "-c", "echo $RAY_ADDRESS").stdout == "auto\n"
    node.run("setup_node.sh", node.environment)  # it's a head no more
    assert node.bash("--login", "-c", "echo $RAY_ADDRESS").stdout == "\n"


def test_setting_up_again_changes_no_file(node: Node) -> None:
    (node.home / ".profile").write_text("echo before\n")

    def files() -> dict[str, str]:
        for arguments in ((node.environment,), ("--head",)):
            assert node.run("setup_node.sh", *arguments).returncode == 0
        return {path.name: path.read_text() for path in node.home.iterdir()}

    first = files()
    assert first[".profile"].endswith("echo before\n")
    assert files() == first


@pytest.mark.parametrize("arguments", [(), ("--no-such",)])
def test_setting_up_without_an_environment_shows_how_it_is_used(node: Node, arguments: tuple[str, ...]) -> None:
    done = node.run("setup_node.sh", *arguments)
    assert done.returncode == 2
    assert "setup_node.sh ENVIRONMENT" in done.stderr
    assert not node.calls.exists()


def test_failed_installation_is_no_node(node: Node) -> None:
    (node.environment / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    assert node.run("setup_node.sh", node.environment).returncode == 1
    assert list(node.home.iterdir()) == []


def test_head_is_started_with_its_dashboard_on_loopback_and_the_token_asked_for(node: Node) -> None:
    node.run("setup_node.sh", node.environment)
    node.calls.unlink()
    assert node.run("start_node.sh", "ray", "start", "--head", "--num-cpus=0").returncode == 0
    stop, start = node.calls.read_text().splitlines()
    assert stop == "ray stop (token)"
    assert start == f"ray start --head --port={head_port()} --dashboard-host=127.0.0.1 --num-cpus=0 (token)"


def test_others_are_started_at_the_heads_port_and_the_token_asked_for(node: Node) -> None:
    node.run("setup_node.sh", node.environment)
    node.calls.unlink()
    assert node.run("start_node.sh", "ray", "start", "--address=192.0.2.1").returncode == 0
    until = time.monotonic() + 10
    while "watches" not in node.calls.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert node.calls.read_text().splitlines() == [
        "ray stop (token)",
        f"ray start --address=192.0.2.1:{head_port()} (token)",
        f"watches 192.0.2.1 {head_port()}",  # for what happens where it goes
    ]


class Slurm(Node):
    """Machines of an allocation, all of them this one: what srun starts is written down with where it is to run."""

    def __init__(self, folder: Path, machines: tuple[str, ...]) -> None:
        super().__init__(folder)
        (folder / "dim-ray-environment").symlink_to(self.environment)
        programs = {
            "bin/scontrol": "printf '%s\\n' " + " ".join(machines),
            "bin/srun": (
                'names=$5; shift 5; echo "$names: $*" >>$CALLS\n'
                'case "$*" in hostname*) echo 192.0.2.1 198.51.100.1 ;; *) exec "$@" ;; esac'
            ),
            # Counts as nodes what was started: the head, and as many as the others were named.
            "environment/bin/python": (
                'case "$2" in *secrets*) echo 00ff ;; *) grep -c "ray start" $CALLS | sed "s/2/$MACHINES/" ;; esac'
            ),
            "environment/bin/ray": '[ "$1" != start ] || exec sleep 60',
        }
        (folder / "bin").mkdir()
        for name, body in programs.items():
            (folder / name).write_text(f"#!/bin/bash\n{body}\n")
            (folder / name).chmod(0o755)
        self.variables = {
            "HOME": str(self.home),
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "CALLS": str(self.calls),
            "MACHINES": str(len(machines)),
            "SLURM_SUBMIT_DIR": str(self.checkout),
            "SLURM_JOB_NODELIST": "some",
            "SLURM_CPUS_ON_NODE": "8",
        }

    def submit(self, *command: str) -> subprocess.CompletedProcess[str]:
        script = str(self.checkout / "cluster" / "slurm.sh")
        return subprocess.run(
            ["bash", script, *command], env=self.variables, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.mark.parametrize("machines", [("a",), ("a", "b", "c")])
def test_allocation_runs_a_node_on_each_machine_and_the_command_on_the_first(
    tmp_path: Path, machines: tuple[str, ...]
) -> None:
    slurm = Slurm(tmp_path, machines)
    started_at = time.monotonic()
    done = slurm.submit("sh", "-c", "echo $RAY_ADDRESS $RAY_AUTH_MODE $RAY_AUTH_TOKEN")
    assert done.stdout == "auto token 00ff\n", done.stderr
    assert done.returncode == 0
    assert time.monotonic() - started_at < 30  # what was started was ended with it
    start = f"bash {slurm.checkout}/cluster/start_node.sh ray start --block --num-cpus=8"
    started = [call for call in slurm.calls.read_text().splitlines() if "ray start" in call]
    assert started[0] == f"a: {start} --head --node-ip-address=192.0.2.1"
    assert started[1:] == ([f"b,c: {start} --address=192.0.2.1"] if machines[1:] else [])


def test_allocation_ends_with_the_commands_exit_code(tmp_path: Path) -> None:
    assert Slurm(tmp_path, ("a",)).submit("sh", "-c", "exit 3").returncode == 3


def test_allocation_whose_ray_does_not_start_ends_with_an_error(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, ("a", "b"))
    (slurm.environment / "bin" / "ray").write_text("#!/bin/sh\nexit 1\n")
    (slurm.environment / "bin" / "python").write_text("#!/bin/sh\nexit 0\n")
    done = slurm.submit("true")
    assert done.returncode == 1
    assert "error: Ray ended" in done.stderr


def test_allocation_without_a_command_says_so(tmp_path: Path) -> None:
    done = Slurm(tmp_path, ("a",)).submit()
    assert done.returncode == 2
    assert "no command given" in done.stderr


@pytest.mark.parametrize("is_latest", [True, False])
def test_worker_ends_what_is_left_of_ray_unless_it_was_started_again(tmp_path: Path, is_latest: bool) -> None:
    node = Node(tmp_path)
    node.run("setup_node.sh", node.environment)
    node.calls.unlink()
    # No process of this name; otherwise it would wait for those that others run here.
    script = (FOLDER / "leave_with_head.sh").read_text().replace("raylet /proc", "no_raylet /proc")
    if not is_latest:
        script = script.replace("missed=0\n", "missed=0; rm ~/.dim_ray_watcher\n", 1)
    node.bash("-c", script, "leave_with_head.sh", "127.0.0.1", "9")
    assert (node.calls.exists() and node.calls.read_text()) == (is_latest and "ray stop --force (token)\n")
