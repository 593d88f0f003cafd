"""Names: their order, and which of them files may have."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbrats.data.names import LONGEST_CASE_NAME, case_name_problem, check_case_name, natural_key
from jaxbrats.system.errors import InputError

# Letters and digits of many kinds, and what stands for bytes that are not UTF-8.
texts = st.text(st.sampled_from("aAbB-_ 0123²٣¼\udce9\n") | st.characters(), max_size=8)


def test_people_count_so():
    ordered = ["case_2", "case_10", "case_010x", "patient", "patient2", "site", "Site2", "site10"]
    assert sorted(set(ordered), key=natural_key) == ordered
    assert natural_key("9" * 5000) > natural_key("8" * 5000) > natural_key("9" * 4999)


@given(first=texts, second=texts, third=texts)
def test_the_order_is_total(first, second, third):
    keys = [natural_key(text) for text in (first, second, third)]
    low, middle, high = sorted(keys)
    assert low <= middle <= high and low <= high
    assert (keys[0] == keys[1]) == (first == second)
    assert (keys[0] < keys[1]) + (keys[0] > keys[1]) + (keys[0] == keys[1]) == 1


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "../../x", "a/b", "/etc", "a\\b", "a\0b", "caf\udce9", "é" * 101, "n" * 201]
)
def test_names_that_no_file_of_a_case_may_have(name):
    assert case_name_problem(name)
    with pytest.raises(InputError, match=r"data\.json: has a name .*\. Rename it") as refused:
        check_case_name(name, pathlib.Path("data.json"), "Rename it")
    assert str(refused.value).isprintable() and refused.value.case[:200] == name[:200]


@pytest.mark.parametrize("name", ["a", "BraTS-GLI-00001-000", "a..b", "é" * 100, "n" * LONGEST_CASE_NAME, "a\nb", "=1"])
def test_all_other_names_are_taken(name):
    assert case_name_problem(name) is None
    check_case_name(name, pathlib.Path("data.json"), "")
