"""Names of networks: what they say, and that a network has only one."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from dim_ray.config import ARCHITECTURES, NetworksConfig, check_architecture
from dim_ray.errors import ConfigError

CONVNET3 = (
    "convnet3 takes _bn or _ln or _gn or _nonorm, then _w and a width (default: 128); _dim instead of norm and width."
)
RESNET18 = "resnet18 takes _ap, then _in, then _w and a width (default: 64); _dim or _dim7 instead of norm and width."


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("alexnet_w64", ("alexnet", False, "", "nonorm", 64)),
        ("convnet3", ("convnet3", False, "", "in", 128)),
        ("convnet4_bn_w64", ("convnet4", False, "", "bn", 64)),
        ("convnet1_nonorm", ("convnet1", False, "", "nonorm", 128)),
        ("densenet121", ("densenet121", False, "", "bn", 64)),
        ("lenet", ("lenet", False, "", "nonorm", 0)),
        ("resnet10", ("resnet10", False, "", "bn", 64)),
        ("resnet50_ap_in_w32", ("resnet50", True, "", "in", 32)),
        ("vgg11_in", ("vgg11", False, "", "in", 64)),
        ("vit_tiny_w48", ("vit_tiny", False, "", "ln", 48)),
        ("convnet3_dim", ("convnet3", False, "dim", "in", 128)),
        ("densenet121_dim", ("densenet121", False, "dim", "bn", 24)),
        ("resnet18_dim", ("resnet18", False, "dim", "bn", 32)),
        ("resnet10_ap_dim7", ("resnet10", True, "dim7", "bn", 64)),
    ],
)
def test_a_name_is_parsed(name: str, parts: tuple[str, bool, str, str, int]) -> None:
    read = check_architecture(name)
    assert (read.family, read.pooled, read.variant, read.norm, read.width) == parts


@pytest.mark.parametrize(
    "name", ["", "vgg", "_w64", "convnet", "convnet7", "convnet3 ", "resnet18\n", "ViT_tiny", "vit"]
)
def test_an_unknown_family_is_refused_with_the_known_ones(name: str) -> None:
    known = re.escape(f"Known: {', '.join(sorted(ARCHITECTURES))}.")
    with pytest.raises(ConfigError, match=rf"^networks\.teachers has the unknown architecture [^:]* {known}$"):
        check_architecture(name, "networks.teachers")


def test_the_nearest_family_is_named() -> None:
    with pytest.raises(ConfigError, match="'vit_small'; did you mean 'vit_tiny'"):
        check_architecture("vit_small")


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("alexnet_bn", "alexnet takes _w and a width (default: 128)."),
        ("convnet3_", CONVNET3),
        ("convnet3_ap", CONVNET3),
        ("convnet3_bn_gn", CONVNET3),
        ("convnet3_w8_w16", CONVNET3),
        ("convnet3_wide", CONVNET3),
        ("convnet3_dim7", CONVNET3),
        ("convnet3_dim_w64", CONVNET3),
        ("convnet4_dim", "convnet4 takes _bn or _ln or _gn or _nonorm, then _w and a width (default: 128)."),
        ("densenet121_in", "densenet121 takes _w and a width (default: 64); _dim instead of norm and width."),
        ("lenet_w8", "lenet takes no options."),
        ("mlp_bn", "mlp takes _w and a width (default: 128)."),
        ("resnet18_ln", RESNET18),
        ("resnet18_w32\n", RESNET18),
        ("resnet18_dim_in", RESNET18),
        ("resnet18_in_dim", RESNET18),
        ("resnet18_dim_dim7", RESNET18),
        ("resnet18_dim3", RESNET18),
        ("resnet34_dim", "resnet34 takes _ap, then _in, then _w and a width (default: 64)."),
        ("vgg11_ap", "vgg11 takes _in, then _w and a width (default: 64)."),
    ],
)
def test_an_option_that_a_family_does_not_take_is_refused_with_what_it_takes(name: str, takes: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^networks.students has {re.escape(repr(name))}; {re.escape(takes)} Leave defaults out.$"
    ):
        check_architecture(name, "networks.students")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("convnet3_in", "convnet3"),
        ("convnet3_w128", "convnet3"),
        ("convnet3_w64_bn", "convnet3_bn_w64"),
        ("convnet3_w064", "convnet3_w64"),
        ("mlp_nonorm", "mlp"),
        ("resnet18_bn_ap_w64", "resnet18_ap"),
        ("resnet18_in_ap", "resnet18_ap_in"),
        ("resnet18_dim_ap", "resnet18_ap_dim"),
        ("resnet18_dim_w32", "resnet18_dim"),
        ("resnet18_bn_dim7", "resnet18_dim7"),
    ],
)
def test_a_network_has_one_name(name: str, plain: str) -> None:
    with pytest.raises(ConfigError, match=rf"has {name!r}; .* takes .*Leave defaults out\."):
        check_architecture(name)
    check_architecture(plain)


def test_the_narrow_densenet_is_called_dims() -> None:
    with pytest.raises(ConfigError, match="has 'densenet121_w24'; the name of this network is densenet121_dim"):
        check_architecture("densenet121_w24")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("alexnet_w7", "2, 4, 6"),
        ("convnet3_w0", "1, 2, 3"),
        ("convnet3_gn_w6", "4, 8, 12"),
        ("densenet121_w7", "2, 4, 6"),
        ("vit_tiny_w64", "3, 6, 9"),
    ],
)
def test_a_width_that_no_such_network_has_is_refused(name: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"has '{name}'; allowed widths: {allowed}, ..."):
        check_architecture(name)


@pytest.mark.parametrize("section", ["teachers", "students"])
def test_the_configuration_says_where_a_name_is_wrong(section: str) -> None:
    with pytest.raises(ConfigError, match=rf"^networks\.{section} has 'mlp_bn'; mlp takes"):
        NetworksConfig(**{section: ("convnet3", "mlp_bn")})


def test_help_and_documentation_name_every_family() -> None:
    documentation = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    help_text = inspect.getsource(NetworksConfig)
    for family in ARCHITECTURES:
        if family not in ("convnet2", "convnet3", "convnet4", "convnet5"):  # between convnet1 and convnet6
            assert f"`{family}`" in documentation
            assert re.search(rf"\b{family}\b", help_text)
