"""Processes that call functions together over gloo, and are kept because starting torch takes long."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from dim_ray.core.training.collective import TorchCollective

MAX_WORKERS = 3
_SECONDS = 120


class Workers:
    """Up to `MAX_WORKERS` processes; a call may use the first few of them."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # torch is imported once for all
        self._folder = tempfile.TemporaryDirectory()
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(MAX_WORKERS):
            ours, theirs = context.Pipe()
            # Daemons end with this process, whatever ends it.
            process = context.Process(target=_work, args=(rank, f"{self._folder.name}/rendezvous", theirs), daemon=True)
            process.start()
            theirs.close()  # so that a worker that dies is seen at once
            self._connections.append(ours)
            self._processes.append(process)

    def run(self, num_workers: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Return the result of `function(collective, *args)` on each worker."""
        try:
            for connection in self._connections[:num_workers]:
                connection.send_bytes(pickle.dumps((num_workers, function, args)))
            return self._answers(num_workers)
        except BaseException:  # the others may wait for one that failed: the next call starts new ones
            for process in self._processes:
                process.terminate()
            workers.cache_clear()
            raise

    def _answers(self, num_workers: int) -> list[Any]:
        answers: dict[int, Any] = {}
        while len(answers) < num_workers:
            waiting = {self._connections[rank]: rank for rank in range(num_workers) if rank not in answers}
            ready = wait(list(waiting), _SECONDS)
            if not ready:
                raise TimeoutError(f"workers {list(waiting.values())} didn't answer within {_SECONDS} seconds")
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting[connection]
                error, answers[rank] = pickle.loads(connection.recv_bytes())
                if error:
                    raise AssertionError(f"worker {rank} of {num_workers}:\n{error}")
        return [answers[rank] for rank in range(num_workers)]


@functools.cache
def workers() -> Workers:
    """Return the processes that all tests share; the first call starts them."""
    return Workers()


def _work(rank: int, rendezvous: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # 127.0.0.1, whatever the machine's name resolves to
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=MAX_WORKERS)
    collectives = {}
    for count in range(1, MAX_WORKERS + 1):
        group = dist.new_group(list(range(count)))  # which every process has to call, also for groups of others
        if isinstance(group, dist.ProcessGroup):
            collectives[count] = TorchCollective(group=group)
    while True:
        try:
            num_workers, function, args = pickle.loads(connection.recv_bytes())
        except EOFError:  # the tests are done
            return
        try:
            answer = pickle.dumps((None, function(collectives[num_workers], *args)))
        except BaseException:
            answer = pickle.dumps((traceback.format_exc(), None))
        connection.send_bytes(answer)
