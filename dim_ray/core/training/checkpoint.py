"""Tensors and JSON as the bytes of one safetensors file, with a digest that detects any altered or missing byte.

    data = dumps({"weight": weight}, {"step": 7})
    tensors, meta = loads(data, origin="state.safetensors")

No pickle: somebody else's checkpoint can't run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dim_ray.errors import ArtifactError

__all__ = [
    "FORMAT_VERSION",
    "dumps",
    "dumps_host",
    "host_copy",
    "loads",
    "optimizer_tensors",
    "restore_module",
    "restore_optimizer",
    "with_prefix",
    "without_prefix",
]

FORMAT_VERSION = 1
_HEADER_KEY = "dim_ray"
_LENGTH_BYTES = 8  # at the start of every safetensors file: its header's length
_REMEDY = "delete it and run the same command again."


def dumps(tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> bytes:
    """Return one file's bytes, from tensors of any device and type and JSON values."""
    return dumps_host(host_copy(tensors), meta)


def host_copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies on the CPU that share no memory, for `dumps_host`."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def dumps_host(host: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> bytes:
    """Return one file's bytes from tensors that `host_copy` made, without another copy."""
    plain = json.loads(json.dumps(dict(meta or {})))  # as a reader sees it, so that both digests agree
    header = {"format_version": FORMAT_VERSION, "meta": plain, "sha256": _digest(host, FORMAT_VERSION, plain)}
    # The library writes tensors in a fixed order: the same state gives the same bytes.
    return safetensors.torch.save(dict(host), metadata={_HEADER_KEY: json.dumps(header, sort_keys=True)})


def loads(data: bytes, origin: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the JSON values of a file that `dumps` made, named `origin` in messages.

    Raises:
        ArtifactError: The file is truncated, altered, of a newer format or not ours.
    """
    header = _read_header(data, origin)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type that torch lacks
        raise ArtifactError(f"{origin} is truncated or altered ({error}); {_REMEDY}") from error
    if header["sha256"] != _digest(tensors, header["format_version"], header["meta"]):
        raise ArtifactError(f"{origin} was altered: its SHA-256 is not the one it was written with; {_REMEDY}")
    return tensors, dict(header["meta"])


def restore_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors of a `state_dict`; every name and shape must fit."""
    module.load_state_dict(dict(tensors), strict=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as flat tensors named <parameter number>.<quantity>."""
    return {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, quantities in optimizer.state_dict()["state"].items()
        for name, value in quantities.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned; the optimiser keeps its own learning rate and the like."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        number, quantity = name.split(".", 1)
        index = int(number)
        # A copy, because load_state_dict keeps the tensors that it is given, and steps change them in place. Its memory
        # layout is the parameter's, because fused steps walk through both in order.
        fits = tensor.shape == parameters[index].shape
        own = torch.empty_like(parameters[index], dtype=tensor.dtype).copy_(tensor) if fits else tensor.clone()
        state.setdefault(index, {})[quantity] = own
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with `prefix.` before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors named `prefix.`..., without that prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def _read_header(data: bytes, origin: str) -> dict[str, Any]:
    """Return what `dumps` wrote beside the tensors, which a newer format may store in ways that can't be read."""
    try:
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        metadata = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length]).get("__metadata__", {})
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"{origin} is truncated or not a safetensors file ({error}); {_REMEDY}") from error
    if not isinstance(metadata, dict) or _HEADER_KEY not in metadata:
        raise ArtifactError(
            f"{origin} is a safetensors file, but not one of dim_ray's; give the path of a file that dim_ray wrote."
        )
    try:
        header = json.loads(metadata[_HEADER_KEY])
        version, _, _ = int(header["format_version"]), header["meta"], header["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{origin} was altered: its header can't be read ({error}); {_REMEDY}") from error
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{origin} was made by a newer version of dim_ray (format {version}; this one reads up to "
            f"{FORMAT_VERSION}): upgrade dim_ray."
        )
    return dict(header)


def _digest(tensors: Mapping[str, Tensor], version: int, meta: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([version, meta], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
