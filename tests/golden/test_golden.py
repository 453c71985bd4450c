"""The library gives the original code's own numbers, or says exactly where it does not."""

import pytest

from tests.golden import items as golden
from tests.golden import original

ITEMS = list(golden.items())
DIFFERENT = [one for one in ITEMS if one.differs]


def marked(one: golden.Item) -> pytest.ParameterSet:
    """An item that differs must fail, and by its comparison alone."""
    if not one.differs:
        return pytest.param(one, id=one.name)
    why = f"{one.differs} (by {one.by:g} {one.unit})"
    expected = pytest.mark.xfail(strict=True, raises=AssertionError, reason=why)
    return pytest.param(one, id=one.name, marks=expected)


@pytest.mark.parametrize("one", [marked(one) for one in ITEMS])
def test_the_library_gives_the_originals_numbers(one: golden.Item):
    assert one.equal, f"{one.compared}: {one.difference:g} {one.unit}, at most {one.tolerance:g}"


@pytest.mark.parametrize("one", DIFFERENT, ids=lambda one: one.name)
def test_what_differs_differs_by_as_much_as_is_told(one: golden.Item):
    assert one.difference == pytest.approx(one.by, rel=0.02)


def test_every_golden_file_is_compared():
    begun = {one.name.split()[0] for one in ITEMS}
    files = {path.name.partition("_")[0] for path in original.DATA.glob("*.npz")}
    assert files <= begun, f"no item reads {sorted(files - begun)}"
