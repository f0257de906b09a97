from __future__ import annotations

import shlex
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.cluster_files import FOLDER, head_port

SCRIPTS = sorted(FOLDER.glob("*.sh"))


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
        # Of this name there is no process, whatever else runs here.
        setup = self.checkout / "cluster" / "setup_node.sh"
        setup.write_text(setup.read_text().replace("gcs_server", "no_gcs_server"))
        self.home.mkdir()
        (self.environment / "bin").mkdir(parents=True)
        for program in ("python", "ray"):
            path = self.environment / "bin" / program
            path.write_text(f'#!/bin/sh\necho "{program} $* ($RAY_AUTH_MODE)" >>{self.calls}\n')
            path.chmod(0o755)

    def run(self, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.command(shlex.join(["bash", str(self.checkout / "cluster" / script), *map(str, arguments)]))

    def command(self, command: str) -> subprocess.CompletedProcess[str]:
        """Gives a command as Ray does."""
        return subprocess.run(
            ["bash", "--login", "-c", "-i", f"source ~/.bashrc; ({command})"],
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


def test_ray_finds_environment_and_code_in_the_home_of_a_node(node: Node) -> None:
    (node.home / ".bashrc").write_text("export PATH=/of/another/python:$PATH # without an end of line")
    assert node.run("setup_node.sh", node.environment).returncode == 0
    said = node.command("echo $PYTHONPATH $RAY_AUTH_MODE ${RAY_ADDRESS-none} $(command -v ray)").stdout.split()
    assert said == [str(node.checkout), "token", "none", str(node.environment / "bin" / "ray")]


def test_shells_join_the_cluster_while_its_head_runs(node: Node) -> None:
    node.run("setup_node.sh", node.environment)
    head = shutil.copy("/usr/bin/sleep", node.home / "no_gcs_server")
    with subprocess.Popen([head, "60"]) as running:
        assert node.command("echo $RAY_ADDRESS").stdout == "auto\n"
        running.kill()
    assert node.command("echo $RAY_ADDRESS").stdout == "\n"


@pytest.mark.parametrize("before", [None, "echo before\n"])
def test_one_file_of_the_home_is_changed_once_and_as_before_when_the_lines_are_removed(
    node: Node, before: str | None
) -> None:
    if before:
        (node.home / ".bashrc").write_text(before)

    def files(*arguments: object) -> dict[str, str]:
        assert node.run("setup_node.sh", *arguments).returncode == 0
        return {path.name: path.read_text() for path in node.home.iterdir()}

    first = files(node.environment)
    assert list(first) == [".bashrc"]
    assert files(node.environment) == first
    assert files("--remove") == ({".bashrc": before} if before else {})
    assert files("--remove") == ({".bashrc": before} if before else {})


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


def test_workers_with_one_home_each_end_what_is_left_of_ray(node: Node) -> None:
    watcher = node.checkout / "cluster" / "leave_with_head.sh"
    text = (FOLDER / "leave_with_head.sh").read_text()
    watcher.write_text(text.replace("raylet", "no_raylet").replace("sleep 5", f"echo looks >>{node.calls}; sleep 0.1"))
    node.run("setup_node.sh", node.environment)
    node.calls.unlink()
    raylet = shutil.copy("/usr/bin/sleep", node.home / "no_raylet")
    with socket.create_server(("127.0.0.1", 0)) as head, ThreadPoolExecutor() as machines:
        with subprocess.Popen([raylet, "60"]) as running:
            address = ("127.0.0.1", head.getsockname()[1])
            watchers = [machines.submit(node.run, "leave_with_head.sh", *address) for _ in range(2)]
            time.sleep(1)
            assert "looks" in node.calls.read_text()
            assert "ray stop" not in node.calls.read_text()
            running.kill()
        assert all(watcher.result().returncode == 0 for watcher in watchers)
    assert node.calls.read_text().count("ray stop --force (token)") == 2


def test_node_that_starts_again_is_not_watched_for_the_head_before(node: Node) -> None:
    watcher = node.checkout / "cluster" / "leave_with_head.sh"
    watcher.write_text("sleep 60; true")
    with subprocess.Popen(["bash", watcher]) as before:
        node.run("setup_node.sh", node.environment)
        assert node.run("start_node.sh", "ray", "start", "--head").returncode == 0
        assert before.wait(10) == -signal.SIGTERM
