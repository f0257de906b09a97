from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from dim_ray.core.training import checkpoint
from dim_ray.core.training.checkpoint import (
    dumps,
    loads,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    with_prefix,
    without_prefix,
)
from dim_ray.errors import ArtifactError

ORIGIN = "somewhere/state.safetensors"
NAME = re.escape(ORIGIN)
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def small_file() -> bytes:
    tensors = {"weight": torch.arange(6.0).view(2, 3), "counter": torch.tensor(3), "half": torch.ones(2).bfloat16()}
    return dumps(tensors, {"steps": 7, "name": "a b"})


def header_length(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def with_header(data: bytes, change: dict[str, Any]) -> bytes:
    """Return the file with changed entries in dim_ray's own header."""
    end = 8 + header_length(data)
    header = json.loads(data[8:end])
    own = {**json.loads(header["__metadata__"]["dim_ray"]), **change}
    header["__metadata__"]["dim_ray"] = json.dumps(own)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (), (0,), (2, 0, 3), (1,)], ids=str)
def test_every_type_and_shape_is_restored_bit_by_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (10 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    loaded, _ = loads(dumps({"tensor": tensor}), ORIGIN)
    assert loaded["tensor"].dtype == dtype
    assert loaded["tensor"].shape == shape
    assert torch.equal(loaded["tensor"], tensor)


def test_values_that_are_not_numbers_keep_their_bits() -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    loaded, _ = loads(dumps({"tensor": tensor}), ORIGIN)
    assert torch.equal(loaded["tensor"].view(torch.int32), tensor.view(torch.int32))


def test_views_shared_memory_and_parameters_are_kept_by_value() -> None:
    base = torch.arange(12.0).view(3, 4)
    tensors = {
        "transposed": base.T,
        "column": base[:, 1],
        "expanded": torch.ones(1).expand(4),
        "same": base,
        "again": base,
        "parameter": nn.Parameter(base.clone()),
        "channels last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    loaded, _ = loads(dumps(tensors), ORIGIN)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
        assert not loaded[name].requires_grad
    loaded["same"].zero_()
    assert torch.equal(loaded["again"], base)


def test_meta_is_restored_as_json() -> None:
    meta = {"steps": 3, "nested": {"a": [1, 2.5, None, True, 'ü\n"']}, "pair": (1, 2), "by number": {10: "x", 9: "y"}}
    _, loaded = loads(dumps({}, meta), ORIGIN)
    assert loaded == {**meta, "pair": [1, 2], "by number": {"10": "x", "9": "y"}}
    assert loads(dumps({}), ORIGIN) == ({}, {})


def test_names_may_be_anything() -> None:
    names = ["a", "a.b.c", "ü ☃", "with space", 'quote"', "", "0"]
    loaded, _ = loads(dumps({name: torch.tensor(i) for i, name in enumerate(names)}), ORIGIN)
    assert {name: int(tensor) for name, tensor in loaded.items()} == {name: i for i, name in enumerate(names)}


def test_same_state_gives_the_same_bytes_in_any_order() -> None:
    first = {"a": torch.zeros(3), "b": torch.ones(2, 2), "c": torch.tensor(1)}
    second = dict(reversed(first.items()))
    assert dumps(first, {"x": 1, "y": 2}) == dumps(second, {"y": 2, "x": 1})
    assert dumps(first, {"x": 1}) != dumps(first, {"x": 2})


def test_file_cut_off_anywhere_is_refused_by_name() -> None:
    data = small_file()
    for length in range(len(data)):
        with pytest.raises(ArtifactError, match=NAME):
            loads(data[:length], ORIGIN)


@pytest.mark.parametrize("extra", [b"\0", b"\0" * 100, b" "])
def test_file_with_trailing_bytes_is_refused(extra: bytes) -> None:
    with pytest.raises(ArtifactError, match=NAME):
        loads(small_file() + extra, ORIGIN)


def outcome(data: bytes) -> str | bytes:
    """Return the contents, or how the file is refused."""
    try:
        tensors, meta = loads(data, ORIGIN)
    except ArtifactError as error:
        return "refused by name" if ORIGIN in str(error) else f"refused: {error}"
    return dumps(tensors, meta)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_no_changed_byte_goes_unnoticed(mask: int) -> None:
    data = bytearray(small_file())
    original = outcome(bytes(data))
    for place in range(len(data)):
        data[place] ^= mask
        # JSON has bytes without a meaning, such as a space that became another: what is read must be what was written.
        assert outcome(bytes(data)) in ("refused by name", original), place
        data[place] ^= mask


def test_two_tensors_that_were_swapped_are_noticed() -> None:
    data = dumps({"aa": torch.zeros(2), "bb": torch.ones(2)})
    swapped = data.replace(b'"aa"', b'"cc"').replace(b'"bb"', b'"aa"').replace(b'"cc"', b'"bb"')
    assert swapped != data
    with pytest.raises(ArtifactError, match="altered"):
        loads(swapped, ORIGIN)


@pytest.mark.parametrize("change", [{"meta": {"steps": 8}}, {"format_version": 0}, {"sha256": "0" * 64}], ids=str)
def test_changed_numbers_in_the_header_are_noticed(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"state\.safetensors was altered"):
        loads(with_header(small_file(), change), ORIGIN)


@pytest.mark.parametrize("version", ["new", None, [], {}], ids=str)
def test_malformed_header_is_refused(version: object) -> None:
    with pytest.raises(ArtifactError, match=r"state\.safetensors was altered"):
        loads(with_header(small_file(), {"format_version": version}), ORIGIN)


def test_newer_format_asks_for_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
    newer = small_file()
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match=r"state\.safetensors was made by a newer version.*format 2.*upgrade"):
        loads(newer, ORIGIN)


def test_newer_format_is_recognised_though_its_tensors_cannot_be_read() -> None:
    newer = with_header(small_file(), {"format_version": 9}).replace(b"BF16", b"NF04")
    with pytest.raises(ArtifactError, match=r"newer version.*format 9"):
        loads(newer, ORIGIN)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=str)
def test_safetensors_of_somebody_else_are_refused(metadata: dict[str, str] | None) -> None:
    data = safetensors.torch.save({"weight": torch.zeros(3)}, metadata=metadata)
    with pytest.raises(ArtifactError, match=r"state\.safetensors is a safetensors file, but not one of dim_ray's"):
        loads(data, ORIGIN)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 8,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        b"\xff" * 64,
        b"[1, 2, 3]",
        b"\x02" + b"\0" * 7 + b"[]",
    ],
    ids=repr,
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"state\.safetensors is truncated or not a safetensors file"):
        loads(data, ORIGIN)


def test_prefixes_that_begin_alike_stay_apart() -> None:
    tensors = {**with_prefix("1", {"a": torch.tensor(1)}), **with_prefix("10", {"a": torch.tensor(10)})}
    assert {name: int(value) for name, value in without_prefix("1", tensors).items()} == {"a": 1}
    assert {name: int(value) for name, value in without_prefix("10", tensors).items()} == {"a": 10}


def make_module(seed: int) -> nn.Module:
    rng = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return module


def train(module: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    for step in range(num_steps):
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad(set_to_none=True)
        module(inputs).square().mean().backward()
        optimizer.step()


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adam": lambda module: torch.optim.Adam(module.parameters(), 0.01, (0.0, 0.9)),
    "sgd": lambda module: torch.optim.SGD(module.parameters(), 0.01),
    "momentum": lambda module: torch.optim.SGD(module.parameters(), 0.01, 0.9, weight_decay=5e-4),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_restored_module_and_optimizer_continue_with_the_same_bits(kind: str, num_steps: int) -> None:
    module, again = make_module(0), make_module(1)
    optimizer, other = OPTIMIZERS[kind](module), OPTIMIZERS[kind](again)
    train(module, optimizer, num_steps)
    tensors, _ = loads(
        dumps({**with_prefix("m", module.state_dict()), **with_prefix("o", optimizer_tensors(optimizer))}), ORIGIN
    )
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    restore_module(again, without_prefix("m", tensors))
    restore_optimizer(other, without_prefix("o", tensors))
    for owner, same in ((module, optimizer), (again, other)):
        train(owner, same, 2)
    assert dumps(again.state_dict()) == dumps(module.state_dict())
    assert dumps(optimizer_tensors(other)) == dumps(optimizer_tensors(optimizer))
    assert dumps(tensors) == dumps(kept), "training changed what it was restored from"


def test_restored_optimizer_keeps_its_own_learning_rate() -> None:
    module = make_module(0)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    train(module, optimizer, 1)
    other = torch.optim.Adam(make_module(1).parameters(), 0.5)
    restore_optimizer(other, optimizer_tensors(optimizer))
    assert other.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("spoil", ["missing", "surplus", "shape"])
def test_module_of_another_structure_is_refused(spoil: str) -> None:
    tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in make_module(0).state_dict().items()}
    if spoil == "missing":
        del tensors["0.bias"]
    elif spoil == "surplus":
        tensors["3.bias"] = torch.zeros(1)
    else:
        tensors["0.bias"] = torch.zeros(7)
    with pytest.raises(RuntimeError, match="bias"):
        restore_module(make_module(1), tensors)
