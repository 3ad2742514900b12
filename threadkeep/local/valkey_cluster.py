"""A Valkey Cluster on the loopback interface: primaries with a replica each, to be killed and to come back."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from threadkeep.local.errors import ServerFailed
from threadkeep.local.passwords import kept_secret
from threadkeep.local.ports import LOOPBACK, free_port
from threadkeep.local.resp import ErrorReply
from threadkeep.local.valkey import ValkeyServer

SLOTS: Final = 16_384
_POLL = 0.03
_PATIENCE = 30.0


class ValkeyCluster:
    """As many primaries as replicas, all slots served. A context manager.

    Args:
        data_dir: Its own folder; each node gets one in it.
        nodes: An even number, six at least: fewer than three primaries elect no successor.
        node_timeout_ms: Milliseconds of silence after which the others count a node as failed.
    """

    def __init__(self, data_dir: Path, *, nodes: int = 6, node_timeout_ms: int = 1500) -> None:
        if nodes < 6 or nodes % 2:
            raise ValueError(f"{nodes} nodes: an even number, six at least, is needed")
        self._data_dir = data_dir
        self._password = kept_secret(data_dir / "password")
        self.nodes = [self._node(number, node_timeout_ms) for number in range(nodes)]
        self._frozen: list[ValkeyServer] = []
        self._hurt = False

    def _node(self, number: int, timeout_ms: int) -> ValkeyServer:
        extra = [
            "cluster-enabled yes",
            f"cluster-port {free_port()}",
            f"cluster-node-timeout {timeout_ms}",
            "cluster-replica-validity-factor 0",  # a replica may take over however long it has heard nothing
            "cluster-allow-replica-migration no",
            f"primaryauth {self._password}",
            "repl-diskless-sync-delay 0",
            "shutdown-timeout 0",  # nobody waits for a lagging replica of a cluster that ends
        ]
        return ValkeyServer(self._data_dir / f"node-{number}", extra=extra, password=self._password)

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start all nodes, make them a cluster, and wait until it is whole.

        Raises:
            ServerFailed: a node did not start, or they did not come together; all have been stopped.
        """
        try:
            for node in self.nodes:
                node.start()
            self._join()
            self.wait_whole()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop all nodes; their data stays."""
        self._thaw()
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what is where ----------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """One `redis://` URL that names every node; holds the password."""
        return f"redis://:{self._password}@{','.join(f'{LOOPBACK}:{node.port}' for node in self.nodes)}/0"

    @property
    def primaries(self) -> list[ValkeyServer]:
        """The nodes that take writes, as a node that runs sees it."""
        return list({id(primary): primary for _, primary, _ in self._ranges()}.values())

    def primary_of(self, key: str) -> ValkeyServer:
        """The node that takes a key's writes, as a node that runs sees it."""
        return self._serving(key)[0]

    def replica_of(self, primary: ValkeyServer) -> ValkeyServer:
        """The replica that would take a primary's place."""
        return next(replicas[0] for _, found, replicas in self._ranges() if found is primary and replicas)

    # --- faults, and what follows -----------------------------------------------------------------------------------

    def kill(self, node: ValkeyServer) -> None:
        """End a node as a crash would, with SIGKILL."""
        self._hurt = True
        node.kill()

    def freeze(self, node: ValkeyServer) -> None:
        """Have a node neither answer nor break a connection, as one whose host hangs, until `heal`."""
        if node.pid is not None:
            self._hurt = True
            self._frozen.append(node)
            os.kill(node.pid, signal.SIGSTOP)

    def stop(self, node: ValkeyServer) -> None:
        """End a node politely."""
        self._hurt = True
        node.stop()

    def wait_replicated(self, primary: ValkeyServer) -> None:
        """Wait until a primary's replica has everything that the primary has now."""
        written = int(_info(primary)["master_repl_offset"])
        replica = self.replica_of(primary)
        self._until(
            lambda: int(_info(replica).get("slave_repl_offset", -1)) >= written, "its replica did not catch up", replica
        )

    def stop_replication(self, primary: ValkeyServer) -> None:
        """Have a primary's replica receive nothing more, until `heal`; it may take the primary's place all the same."""
        self._hurt = True
        self.replica_of(primary).ask("CONFIG", "SET", "primaryauth", "wrong")
        primary.ask("CLIENT", "KILL", "TYPE", "replica")

    def wait_for_failover(self, key: str, *, from_node: ValkeyServer) -> ValkeyServer:
        """Wait until another node than `from_node` takes a key's writes, and every node that runs knows; that node."""

        def settled() -> bool:
            serving = {id(self._serving(key, asked=node)[0]) for node in self._running()}
            return len(serving) == 1 and id(from_node) not in serving and self._agreed()

        self._until(settled, f"nobody took the place of port {from_node.port}", from_node)
        return self.primary_of(key)

    def heal(self) -> None:
        """Undo what was done to nodes by the methods above, and wait until the cluster is whole."""
        if not self._hurt:
            return
        self._thaw()
        for node in self.nodes:
            if not node.running:
                node.start()
            node.ask("CONFIG", "SET", "primaryauth", self._password)
        self.wait_whole()
        self._hurt = False

    def wait_whole(self) -> None:
        """Wait until every slot is served, and every primary has a replica that is in sync with it."""
        self._until(self._whole, "the nodes did not come together", self.nodes[0])

    # --- how --------------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        half = len(self.nodes) // 2
        for number, primary in enumerate(self.nodes[:half]):
            primary.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, last = SLOTS * number // half, SLOTS * (number + 1) // half - 1
            primary.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for one, other in permutations(self.nodes, 2):
            one.ask("CLUSTER", "MEET", LOOPBACK, other.port, *_bus_port(other))
        for primary, replica in zip(self.nodes[:half], self.nodes[half:], strict=True):
            self._until(lambda: _replicates(replica, primary), "it could not become a replica", replica)  # noqa: B023

    def _whole(self) -> bool:
        served = sum(last - first + 1 for (first, last), _, replicas in self._ranges() if replicas)
        return served == SLOTS and self._agreed() and all(map(_in_sync, self.nodes))

    def _agreed(self) -> bool:
        return all("cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in self._running())

    def _running(self) -> list[ValkeyServer]:
        return [node for node in self.nodes if node.running and node not in self._frozen]

    def _thaw(self) -> None:
        frozen, self._frozen = self._frozen, []
        for pid in [node.pid for node in frozen if node.pid is not None]:
            os.kill(pid, signal.SIGCONT)

    def _serving(self, key: str, *, asked: ValkeyServer | None = None) -> tuple[ValkeyServer, list[ValkeyServer]]:
        asked = asked or self._running()[0]
        slot = asked.ask("CLUSTER", "KEYSLOT", key)
        ranges = self._ranges(asked)
        return next((primary, others) for (first, last), primary, others in ranges if first <= slot <= last)

    def _ranges(
        self, asked: ValkeyServer | None = None
    ) -> Iterator[tuple[tuple[int, int], ValkeyServer, list[ValkeyServer]]]:
        """Ranges of slots, each with its primary and that one's replicas."""
        by_port = {node.port: node for node in self.nodes}
        for first, last, primary, *replicas in (asked or self._running()[0]).ask("CLUSTER", "SLOTS"):
            yield (first, last), by_port[primary[1]], [by_port[replica[1]] for replica in replicas]

    def _until(self, condition: Callable[[], bool], problem: str, node: ValkeyServer) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not _holds(condition):
            if time.monotonic() > deadline:
                raise ServerFailed("valkey-cluster", problem, str(node.log_path), node.log()[-2000:])
            time.sleep(_POLL)


def _holds(condition: Callable[[], bool]) -> bool:
    """Nodes that are just starting or ending may not answer, or not yet as they should."""
    try:
        return condition()
    except (OSError, ErrorReply, StopIteration):
        return False


def _replicates(replica: ValkeyServer, primary: ValkeyServer) -> bool:
    return bool(replica.ask("CLUSTER", "REPLICATE", primary.ask("CLUSTER", "MYID")) == "OK")


def _in_sync(node: ValkeyServer) -> bool:
    told = _info(node)
    if told["role"] == "master":
        return int(told["connected_slaves"]) == 1
    return told["master_link_status"] == "up" and told["master_sync_in_progress"] == "0"


def _info(node: ValkeyServer) -> dict[str, str]:
    """What a node says of its replication."""
    told: str = node.ask("INFO", "replication")
    return dict(line.split(":", 1) for line in told.splitlines() if ":" in line)


def _bus_port(node: ValkeyServer) -> Any:
    return node.ask("CONFIG", "GET", "cluster-port")[1:]
