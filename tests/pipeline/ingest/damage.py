"""Strategies that damage documents the way annotation tools and people do."""

import copy
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("FUZZ_CASES", "100"))
"""Cases of each format; ``make fuzz`` runs more."""

fuzz = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES <= 100,
    suppress_health_check=list(HealthCheck),
)
"""In `make test` the same cases each time, so that no unrelated change fails."""

numbers = st.one_of(
    st.integers(-3, 70),
    st.floats(-5, 70),
    st.sampled_from([0, 1, 2**31, 2**63, 10**400, -(10**20), 1e308, float("nan"), float("inf")]),
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "0", "1", "17", "true", ".", "..", "/", "a\\b", "\0", "\ud800", "x" * 300]
    ),
)
junk = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=7), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


@st.composite
def damaged(draw, document, max_changes=6):
    """Return a copy of a JSON document with values replaced, deleted, or listed twice."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, max_changes))):
        node, key = document, draw(st.sampled_from(sorted(document)))
        while isinstance(node[key], dict | list) and node[key]:
            if node is not document and draw(st.integers(0, 3)) == 0:
                break
            node = node[key]
            key = draw(
                st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))
            )
        match draw(st.sampled_from(["replace", "replace", "number", "delete", "repeat"])):
            case "replace":
                node[key] = draw(junk)
            case "number":
                node[key] = draw(numbers)
            case "delete":
                del node[key]
            case "repeat" if isinstance(node, list):
                node.append(copy.deepcopy(node[key]))
    return document
