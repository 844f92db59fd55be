"""A few cases of each entry of fuzz.py; HYPOTHESIS_PROFILE=thorough tries more, `python tests/fuzz.py` most."""

import os

import fuzz
import pytest

EXAMPLES = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 25


@pytest.mark.filterwarnings("ignore:expected .prototypes. with a row that is not zero:UserWarning")
@pytest.mark.parametrize("entry", fuzz.ENTRIES)
def test_awkward_input_gives_a_right_result_or_the_documented_error(entry):
    counts = fuzz.run(entry, EXAMPLES)
    assert sum(counts.values()) >= EXAMPLES // 2
