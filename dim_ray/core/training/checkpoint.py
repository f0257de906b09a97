"""Tensors and JSON as one file's bytes: safetensors, with a digest that finds every altered or missing byte.

    data = dumps({"weight": weight}, {"step": 7})
    tensors, meta = loads(data, origin="state.safetensors")

No pickle: a checkpoint that somebody sent you can't run code.
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
    "module_tensors",
    "optimizer_tensors",
    "restore_module",
    "restore_optimizer",
    "with_prefix",
    "without_prefix",
]

FORMAT_VERSION = 1
_HEADER_KEY = "dim_ray"
_LENGTH_BYTES = 8  # the header's length, with which every safetensors file begins


def dumps(tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> bytes:
    """Returns one file's bytes.

    Args:
        tensors: Any devices and dtypes; shapes are kept.
        meta: JSON values.
    """
    return dumps_host(host_copy(tensors), meta)


def host_copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns copies on the CPU, contiguous and apart from each other: what `dumps_host` takes."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def dumps_host(host: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> bytes:
    """Returns one file's bytes, without another copy of the tensors.

    Args:
        host: What `host_copy` made.
        meta: JSON values.
    """
    plain = json.loads(json.dumps(dict(meta or {})))  # as a reader gets it, so that both digests see the same
    header = {"format_version": FORMAT_VERSION, "meta": plain, "sha256": _digest(host, FORMAT_VERSION, plain)}
    # The library writes tensors in a fixed order, so the same state gives the same bytes.
    return safetensors.torch.save(dict(host), metadata={_HEADER_KEY: json.dumps(header, sort_keys=True)})


def loads(data: bytes, origin: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `dumps` made.

    Args:
        data: The file's bytes.
        origin: The file's name, for error messages.

    Returns:
        Tensors on the CPU, and the JSON values.

    Raises:
        ArtifactError: The file is truncated, altered, of a newer format or not ours.
    """
    header = _read_header(data, origin)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type of numbers that torch has not
        raise ArtifactError(
            f"{origin} is truncated or altered ({error}); delete it and run the same command again."
        ) from error
    if header["sha256"] != _digest(tensors, header["format_version"], header["meta"]):
        raise ArtifactError(
            f"{origin} was altered: its SHA-256 is not the one it was written with; delete it and run the same "
            "command again."
        )
    meta: dict[str, Any] = header["meta"]
    return tensors, meta


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns a module's parameters and buffers by name."""
    return dict(module.state_dict())


def restore_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads what `module_tensors` returned; every name and shape must fit."""
    module.load_state_dict(dict(tensors), strict=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns an optimiser's state as flat tensors named <parameter number>.<quantity>."""
    return {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, quantities in optimizer.state_dict()["state"].items()
        for name, value in quantities.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Loads what `optimizer_tensors` returned; learning rate and the like stay the optimiser's own."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        number, quantity = name.split(".", 1)
        index = int(number)
        # A copy, because load_state_dict keeps the tensors that it is given, and steps change them in place. It lies in
        # memory as the parameter does: fused steps go through both as they lie.
        fits = tensor.shape == parameters[index].shape
        own = torch.empty_like(parameters[index], dtype=tensor.dtype).copy_(tensor) if fits else tensor.clone()
        state.setdefault(index, {})[quantity] = own
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors with `prefix.` before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors named `prefix.`..., with it taken off."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def _read_header(data: bytes, origin: str) -> dict[str, Any]:
    """Returns what `dumps` wrote beside the tensors, before any tensor is read: a newer format may have others."""
    try:
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        metadata = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length]).get("__metadata__", {})
    except (ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{origin} is truncated or not a safetensors file ({error}); delete it and run the same command again."
        ) from error
    if not isinstance(metadata, dict) or _HEADER_KEY not in metadata:
        raise ArtifactError(
            f"{origin} is a safetensors file, but not one of dim_ray's; give the path of a file that dim_ray wrote."
        )
    try:
        header = json.loads(metadata[_HEADER_KEY])
        version, _, _ = int(header["format_version"]), header["meta"], header["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{origin} was altered: its header can't be read ({error}); delete it and run the same command again."
        ) from error
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
