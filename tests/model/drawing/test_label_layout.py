"""Labels cover neither each other nor anything outside the image."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from model.drawing.label_layout import LabelLayout

WIDTH, HEIGHT = 300, 200
sides = st.floats(-50, 350, width=32)
boxes = st.tuples(sides, sides, sides, sides).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
labels = st.tuples(st.floats(5, 150, width=32), st.floats(5, 40, width=32))


@given(st.lists(st.tuples(boxes, labels), max_size=60))
def test_labels_never_overlap_and_stay_within_the_image(objects):
    layout = LabelLayout(WIDTH, HEIGHT)
    placed = [
        (x, y, x + w, y + h)
        for box, (w, h) in objects
        if (corner := layout.place(box, (w, h))) is not None
        for x, y in [corner]
    ]
    for x1, y1, x2, y2 in placed:
        assert x1 >= 0 and y1 >= 0 and x2 <= WIDTH + 1e-6 and y2 <= HEIGHT + 1e-6
    for a, b in itertools.combinations(placed, 2):
        assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


@given(boxes, labels)
def test_the_first_label_always_finds_a_position(box, label):
    assert LabelLayout(WIDTH, HEIGHT).place(box, label) is not None


def test_a_label_goes_above_its_box_then_inside_then_below():
    layout = LabelLayout(WIDTH, HEIGHT)
    box = (100, 50, 200, 150)
    assert layout.place(box, (100, 20)) == (100, 30)
    assert layout.place(box, (100, 20)) == (100, 50)
    assert layout.place(box, (100, 20)) == (100, 150)


def test_fifty_objects_at_one_position_still_have_labels_beside_each_other():
    layout = LabelLayout(640, 480)
    placed = [layout.place((300, 200, 340, 240), (60, 15)) for _ in range(50)]
    assert sum(corner is not None for corner in placed) >= 20
