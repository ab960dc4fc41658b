"""Which part of a picture the model sees."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embervlm.data.images import square_box, to_square


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_the_box_is_what_the_model_sees(width: int, height: int) -> None:
    left, top, right, bottom = square_box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert max(right - left, bottom - top) <= 1.5 * min(right - left, bottom - top) + 1
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    # Grey inside the box and white outside: nothing white arrives.
    picture = Image.new("RGB", (width, height), "white")
    picture.paste((90, 90, 90), (left, top, right, bottom))
    assert set(to_square(picture, 32).ravel().tolist()) == {90}
