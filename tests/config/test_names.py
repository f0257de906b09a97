from __future__ import annotations

import unicodedata

import pytest

from dim_ray.config import Config, DataConfig, StudyConfig
from dim_ray.config.data import stored_label
from dim_ray.config.names import is_name, name_key, path_name, plain_name
from dim_ray.errors import ConfigError

DECOMPOSED = unicodedata.normalize("NFD", "été")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("数据", "数据"),
        ("🐱", "🐱"),
        ("हिन्दी", "हिन्दी"),
        ("می‌خواهم", "میخواهم"),  # without the character that has no width
        (DECOMPOSED, "été"),
        ("my cats (1)", "my_cats__1_"),
        ("a/b\\c:d*e?f\"g<h>i|j'k$l%m=n#o&p\ta", "a_b_c_d_e_f_g_h_i_j_k_l_m_n_o_p_a"),
        ("\uff08全角\uff09\uff0f\uff1d", "全角___"),  # wide brackets, slash and equals sign
        ("\udcff\udcfe.x", "x"),  # a name in another encoding
        ("\u0301a", "a"),  # a mark that would change the = before it
        ("-rf", "rf"),
        ("..", "empty"),
        ("___", "empty"),
        ("", "empty"),
        ("cats.", "cats"),
        ("2024", "2024"),
    ],
)
def test_plain_name_keeps_letters_of_every_script_and_nothing_that_harms_a_path(text: str, name: str) -> None:
    assert plain_name(text, "empty") == name
    assert is_name(name)


@pytest.mark.parametrize("letter", ["a", "é", "据", "🐱"])
def test_long_name_is_cut_between_characters(letter: str) -> None:
    name = plain_name(300 * letter, "empty")
    assert set(name) == {letter}
    assert 76 < len(name.encode()) <= 80


@pytest.mark.parametrize(
    "name",
    [
        "2024", "007", "1e5", "1E-5", "0x10", "0XdeadBEEF", "0b1", "1_000", "1.5", "٣", "\uff13", "2024-01-01", "1.2.3",
        "20240101T000000Z", "inf", "Infinity", "nan", "NaN", "true", "FALSE", "null", "None", "epoch",
        "HIVE_DEFAULT_PARTITION__", "con", "NUL.txt", "com1",
    ],
)  # fmt: skip
def test_name_that_would_be_misread_gets_a_prefix_once(name: str) -> None:
    assert path_name(name, "data") == f"data-{name}"
    assert path_name(f"data-{name}", "data") == f"data-{name}"


@pytest.mark.parametrize(
    "name",
    ["digits", "cifar10", "数据", "一二", "3d", "2024-photos", "101_ObjectCategories", "nano", "infinite", "truex"],
)
def test_other_names_stay(name: str) -> None:
    assert path_name(name, "data") == name


@pytest.mark.parametrize(
    "name", ["", ".a", "-a", "_a", "a/b", "a b", "a=b", "a%b", "a'b", "a\n", DECOMPOSED, 211 * "a", "\u0301a"]
)
def test_what_cannot_stand_in_a_path_is_no_name(name: str) -> None:
    assert not is_name(name)


def test_names_that_a_disk_may_confuse_have_one_key() -> None:
    assert name_key("ÉTÉ") == name_key("été")
    assert name_key("a") != name_key("b")


@pytest.mark.parametrize(
    ("dataset", "name", "label"),
    [
        ("folder:/d/数据", None, "数据"),
        ("folder:/d/2024", None, "data-2024"),
        ("parquet:s3://bucket/1e5", None, "data-1e5"),
        ("digits", "2024", "data-2024"),
        ("digits", DECOMPOSED, "été"),
        ("digits", "data-2024", "data-2024"),
    ],
)
def test_label_of_data_is_a_name_for_paths(dataset: str, name: str | None, label: str) -> None:
    assert DataConfig(dataset=dataset, name=name).label == label


@pytest.mark.parametrize("name", ["数据", DECOMPOSED, "20240501", 100 * "a"])
def test_given_names_may_have_every_letter(name: str) -> None:
    config = Config(data=DataConfig(name=name), study=StudyConfig(name=name))
    assert (config.data.name, config.study.name) == (name, name)


@pytest.mark.parametrize("name", ["a b", "a/b", ".a", 101 * "a", 34 * "据", "\udcff"])
def test_given_name_that_cannot_stand_in_a_path_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.name .* 100 bytes at most"):
        DataConfig(name=name)
    with pytest.raises(ConfigError, match=r"study\.name "):
        StudyConfig(name=name)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ('{"data": {"dataset": "folder:/d/2024", "name": null}}', "data-2024"),
        ('{"data": {"dataset": "digits", "of_a_later_version": 1}}', ""),
        ('{"data": {"dataset": "imagenet"}}', ""),
        ("{}", ""),
        ("no JSON", ""),
    ],
)
def test_stored_configuration_has_the_label_of_its_data(text: str, label: str) -> None:
    assert stored_label(text) == label
