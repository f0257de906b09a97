"""Node providers of `ray up` that start a machine on demand where the cloud refuses a spot machine.

    provider: {type: external, module: dim_ray.distributed.cluster.spot.AwsProvider, region: us-west-2}

Ray's autoscaler would ask for the refused type again and again: it moves on to another one only after a time-out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

# The providers of `ray up`, of which Ray has no public name.
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

__all__ = ["AwsProvider", "GcpProvider"]

log = logging.getLogger(__name__)


class _OnDemandInstead:
    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start machines one by one: of several, a part may have started before the rest is refused."""
        create, started = super().create_node, dict[str, Any]()  # type: ignore[misc]  # of Ray's provider
        for _ in range(count):
            try:
                started |= create(node_config, tags, 1)
            except Exception as refusal:  # Ray raises nothing narrower on Google Cloud
                on_demand = self._on_demand(node_config)
                if on_demand == node_config:
                    raise
                log.warning("No spot machine (%s); asking for one on demand.", refusal)
                started |= create(on_demand, tags, 1)
        return started

    @staticmethod
    def _on_demand(node_config: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class AwsProvider(_OnDemandInstead, AWSNodeProvider):  # type: ignore[misc]  # ray has no types
    """Ray's provider of AWS, with machines on demand in place of refused ones."""

    @staticmethod
    def _on_demand(node_config: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}


class GcpProvider(_OnDemandInstead, GCPNodeProvider):  # type: ignore[misc]
    """Ray's provider of Google Cloud, with machines on demand in place of refused ones."""

    @staticmethod
    def _on_demand(node_config: Mapping[str, Any]) -> dict[str, Any]:
        spot = ("provisioningModel", "instanceTerminationAction")
        scheduling = {key: value for key, value in node_config.get("scheduling", {}).items() if key not in spot}
        return {**node_config, "scheduling": scheduling}
