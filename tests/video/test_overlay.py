"""What is drawn under pictures, pixel by pixel, and once as a picture to look at.

``reference_overlay.png`` is what `example` draws. After a change that is meant, draw it again by
``PYTHONPATH=. python tests/rendering/test_overlay.py``, and look at it.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features
from tfpg.video.text import Item, Strip, _font, font_size, number, places, tinted, under

from tfpg.video.explain import Bar
from tfpg.video.frames import BACKGROUND

REFERENCE = Path(__file__).parent / "reference_overlay.png"
ORANGE = (255, 165, 60)
BLUE = (90, 130, 180)
TRACK = (52, 52, 52)


ITEMS = (
    Item("", "after training", "before training"),
    Item("step", "137", "00000"),
    Item("return", "-21.5"),
    Item("value", "-3.25", "-0000.00"),
)
BARS = (
    Bar("left", 0.08, "0.08", False),
    Bar("coast", 0.25, "0.25", False),
    Bar("right", 0.67, "0.67", True),
)


def example(items=ITEMS, bars=BARS):
    """A plain picture in the size of a GIF, with a strip under it."""
    picture = np.full((200, 300, 3), 250, np.uint8)
    picture[150:154] = 60
    picture[120:150, 130:180] = (200, 30, 40)
    strip = Strip(200, 300, ITEMS, [bar.label for bar in BARS])
    return under(picture, strip.draw(items, bars))


def drawn_by():
    """What decides every pixel of a letter."""
    font = ".".join(_font(10).getname())
    return f"Pillow {PIL.__version__}, FreeType {features.version('freetype2')}, {font}"


def draw_again():
    info = PngImagePlugin.PngInfo()
    info.add_text("drawn by", drawn_by())
    Image.fromarray(example()).save(REFERENCE, optimize=True, pnginfo=info)


def count(line, colour):
    return int((line == colour).all(axis=-1).sum())


def drawn(image):
    """The columns and the rows in which something is."""
    marks = (image != BACKGROUND).any(axis=-1)
    return np.flatnonzero(marks.any(axis=0)), np.flatnonzero(marks.any(axis=1))


class TestNumber:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0, "0"),
            (21.0, "21"),
            (-21.0, "-21"),
            (-0.0, "0"),
            (0.5, "0.5"),
            (-3.25, "-3.2"),
            (1234.56, "1234.6"),
            (np.float32(2.0), "2"),
            (float("nan"), "nan"),
            (float("inf"), "inf"),
            (float("-inf"), "-inf"),
        ],
    )
    def test_whole_numbers_have_no_point_and_others_one_digit(self, value, text):
        assert number(value) == text


@pytest.mark.parametrize(
    ("height", "size"),
    [(1, 10), (84, 10), (280, 10), (308, 11), (400, 14), (504, 18), (600, 18), (4000, 18)],
)
def test_words_are_small_and_never_too_small(height, size):
    assert font_size(height) == size


class TestItem:
    def test_is_its_label_and_its_text(self):
        assert str(Item("step", "7")) == "step 7"
        assert str(Item("", "before")) == "before"
        assert str(Item("value", "")) == "value"
        assert str(Item("", "")) == ""


class TestPlaces:
    @pytest.mark.parametrize(
        ("widths", "width", "gap", "expected"),
        [
            ([], 70, 5, ([], 0)),
            ([30], 70, 5, ([(0, 0)], 1)),
            ([30, 35], 70, 5, ([(0, 0), (35, 0)], 1)),  # just fits
            ([30, 36], 70, 5, ([(0, 0), (0, 1)], 2)),
            ([30, 30, 50], 70, 5, ([(0, 0), (35, 0), (0, 1)], 2)),
            ([90], 70, 5, ([(0, 0)], 1)),
            ([90, 90, 10], 70, 5, ([(0, 0), (0, 1), (0, 2)], 3)),
            ([10, 90, 10, 10], 70, 5, ([(0, 0), (0, 1), (0, 2), (15, 2)], 3)),
        ],
    )
    def test_lines_are_filled_from_left_to_right(self, widths, width, gap, expected):
        assert places(widths, width, gap) == expected

    @given(
        widths=st.lists(st.integers(1, 120), max_size=12),
        width=st.integers(1, 300),
        gap=st.integers(0, 20),
    )
    @settings(max_examples=300, deadline=None)
    def test_words_never_overlap_and_only_one_alone_is_too_wide(self, widths, width, gap):
        found, lines = places(widths, width, gap)
        assert len(found) == len(widths)
        assert sorted({line for _, line in found}) == list(range(lines))
        on = {line: [] for line in range(lines)}
        for (x, line), each in zip(found, widths, strict=True):
            on[line].append((x, each))
        for words in on.values():
            assert words[0][0] == 0
            for (x, each), (following, _) in pairwise(words):
                assert following == x + each + gap
            last, each = words[-1]
            assert last + each <= width or len(words) == 1
        # No word is on a new line that would have had a place on the line before.
        for line in range(lines - 1):
            last, each = on[line][-1]
            assert last + each + gap + on[line + 1][0][1] > width


class TestStrip:
    def test_nothing_to_draw_is_no_strip(self):
        strip = Strip(400, 600, [])
        assert (strip.height, strip.width) == (0, 600)
        picture = np.full((4, 600, 3), 9, np.uint8)
        np.testing.assert_array_equal(under(picture, strip.draw([])), picture)

    def test_has_a_line_for_the_words_and_one_for_each_bar(self):
        items = [Item("step", "0", "00000")]
        assert (Strip(400, 600, items).height, Strip(400, 600, items).width) == (22, 600)
        assert Strip(400, 600, items, ["left", "right"]).height == 3 * 18 + 4
        assert Strip(400, 600, [], ["left", "right"]).height == 2 * 18 + 4
        assert Strip(84, 160, [], ["left", "right"]).height == 2 * 14 + 4

    def test_more_than_three_bars_stand_side_by_side_where_there_is_room(self):
        labels = list("abcdef")
        assert Strip(400, 600, [], labels[:3]).height == 3 * 18 + 4
        assert Strip(400, 600, [], labels[:4]).height == 2 * 18 + 4
        assert Strip(400, 600, [], labels).height == 3 * 18 + 4
        assert Strip(400, 200, [], labels).height == 6 * 18 + 4

    def test_words_that_do_not_fit_on_a_line_are_on_the_next(self):
        items = [Item(name, "0") for name in ("return", "value", "entropy")]
        assert Strip(84, 400, items).height == 14 + 4
        narrow = Strip(84, 100, items)
        assert narrow.height == 3 * 14 + 4
        assert narrow.width == 100

    def test_is_wider_than_the_picture_where_a_word_needs_it(self):
        strip = Strip(84, 20, [Item("return", "0")])
        assert 60 < strip.width < 110
        image = strip.draw([Item("return", "-1234.5")])
        assert image.shape == (18, strip.width, 3)
        columns, _ = drawn(image)
        assert columns.max() < strip.width - 4

    def test_is_as_wide_as_a_label_a_bar_and_a_number(self):
        short, long = (Strip(84, 10, [], [label]) for label in ("a", "a very long label"))
        assert 90 < short.width < long.width
        line = long.draw([], [Bar("a very long label", 1.0, "0.50", True)])[9]
        assert count(line, ORANGE) >= 28  # still a bar

    def test_is_small_bytes(self):
        strip = Strip(400, 600, [Item("step", "0")])
        image = strip.draw([Item("step", "7")])
        assert image.dtype == np.uint8
        assert image.shape == (22, 600, 3)

    def test_another_number_of_words_than_it_has_places_for_is_an_error(self):
        strip = Strip(400, 600, [Item("step", "0")])
        with pytest.raises(ValueError, match="zip"):
            strip.draw([Item("step", "0"), Item("return", "0")])


class TestWords:
    def test_are_light_and_a_title_is_amber(self):
        strip = Strip(600, 600, [Item("", "HILL", "HILL"), Item("I", "H")])
        title = strip.draw([Item("", "HILL"), Item("", "")])
        words = strip.draw([Item("", ""), Item("I", "H")])
        assert title.max(axis=(0, 1)).tolist() == [255, 190, 90]
        assert words.max(axis=(0, 1)).tolist() == [235, 235, 235]

    def test_nothing_is_drawn_for_what_is_not_known(self):
        strip = Strip(400, 600, [Item("", "", "before")])
        assert (strip.draw([Item("", "", "before")]) == BACKGROUND).all()

    @pytest.mark.parametrize("text", ["0", "99999", ""])
    def test_stay_where_they_are_while_numbers_change(self, text):
        items = [Item("step", "7", "00000"), Item("return", "-1.5"), Item("value", "3")]
        strip = Strip(400, 600, items)
        before = strip.draw(items)
        after = strip.draw([Item("step", text, "00000"), *items[1:]])
        changed = np.flatnonzero((before != after).any(axis=(0, 2)))
        # What changed is right of the word "step" and left of the word "return".
        alone = strip.draw([items[0]._replace(text=""), *(Item("", ""),) * 2])
        others = strip.draw([Item("", ""), *items[1:]])
        assert drawn(alone)[0].max() < changed.min()
        assert changed.max() < drawn(others)[0].min()

    def test_each_has_its_own_place(self):
        widest = [
            Item("step", "00000", "00000"),
            Item("return", "-0000.0"),
            Item("", "left", "left"),
        ]
        strip = Strip(84, 160, widest)
        nothing = Item("", "")
        marks = []
        for i, item in enumerate(widest):
            image = strip.draw([item if i == j else nothing for j in range(3)])
            marks.append((image != BACKGROUND).any(axis=-1))
            assert marks[-1].any()
        assert not (marks[0] & marks[1]).any()
        assert not (marks[0] & marks[2]).any()
        assert not (marks[1] & marks[2]).any()

    @pytest.mark.parametrize(("height", "width"), [(84, 84), (210, 160), (400, 600), (900, 1200)])
    def test_nothing_is_drawn_at_the_edge(self, height, width):
        items = [Item("", "Ågy|", "Ågy|"), Item("step", "00000", "00000"), Item("value", "-0000.0")]
        strip = Strip(height, width, items, ["left engine"])
        image = strip.draw(items, [Bar("left engine", 1.0, "-0000.0", True)])
        columns, rows = drawn(image)
        assert columns.min() >= 4
        assert columns.max() < strip.width - 4
        assert rows.min() >= 1
        assert rows.max() < strip.height - 1

    def test_letters_beyond_ascii_are_known(self):
        strip = Strip(400, 600, [Item("", "", "größer")])
        images = [
            strip.draw([Item("", text)]).tobytes() for text in ("größer", "gr□□er", "εντροπία")
        ]
        assert len(set(images)) == 3


class TestBars:
    # Under a picture of 84x160: the first bar's middle is the row 9, the next's 14 below.
    @staticmethod
    def strip(labels=("left", "right")):
        return Strip(84, 160, [], labels)

    def whole(self):
        """How many pixels a full bar has, and where it begins."""
        line = self.strip().draw([], [Bar("left", 1.0, "", False)])[9]
        return count(line, BLUE), int(np.flatnonzero((line == BLUE).all(axis=-1))[0])

    @pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9, 1.0])
    def test_are_as_long_as_their_share(self, share):
        length, start = self.whole()
        assert length > 40
        line = self.strip().draw([], [Bar("left", share, "0.50", False)])[9]
        filled = np.flatnonzero((line == BLUE).all(axis=-1))
        assert len(filled) == pytest.approx(share * length, abs=1.5)
        assert filled.tolist() == list(range(start, start + len(filled)))
        assert count(line[: start + length], TRACK) == length - len(filled)

    @pytest.mark.parametrize(("share", "full"), [(-0.5, False), (0.0, False), (1.5, True)])
    def test_stay_in_their_track(self, share, full):
        length, start = self.whole()
        line = self.strip().draw([], [Bar("left", share, "", True)])[9]
        assert count(line, ORANGE) == full * length
        assert count(line, TRACK) == (not full) * length
        assert (line[start + length :] == BACKGROUND).all()

    def test_the_chosen_one_is_orange(self):
        bars = [Bar("left", 0.5, "0.50", False), Bar("right", 0.5, "0.50", True)]
        image = self.strip().draw([], bars)
        assert (count(image[9], BLUE) > 20, count(image[9], ORANGE)) == (True, 0)
        assert (count(image[23], ORANGE) > 20, count(image[23], BLUE)) == (True, 0)

    def test_are_below_the_words_and_apart_from_each_other(self):
        strip = Strip(84, 160, [Item("step", "0")], ["left", "right"])
        bars = [Bar("left", 1.0, "", True), Bar("right", 1.0, "", True)]
        image = strip.draw([Item("", "")], bars)
        rows = np.flatnonzero((image == ORANGE).all(axis=-1).any(axis=1))
        assert rows.tolist() == [*range(19, 28), *range(33, 42)]

    def test_a_label_is_left_and_a_number_right_of_each(self):
        length, start = self.whole()
        image = self.strip().draw([], [Bar("left", 1.0, "-0000.0", False)])
        left, right = image[:16, :start], image[:16, start + length :]
        assert left.max() > 200
        assert right.max() > 200
        assert (image[16:] == BACKGROUND).all()  # the other bar is not known

    def test_begin_where_they_are_whatever_the_numbers(self):
        length, start = self.whole()
        for text in ("0.00", "-0000.0"):
            line = self.strip().draw([], [Bar("left", 0.5, text, False)])[9]
            assert np.flatnonzero((line == BLUE).all(axis=-1))[0] == start
            assert count(line, BLUE) + count(line, TRACK) == length

    def test_stand_in_columns_from_top_to_bottom(self):
        strip = Strip(400, 600, [], list("abcd"))
        bars = [Bar("a", 1.0, "", i == 2) for i in range(4)]
        image = strip.draw([], bars)
        orange = np.argwhere((image == ORANGE).all(axis=-1))
        # The third of four is the upper right one.
        assert orange[:, 0].max() < 22
        assert orange[:, 1].min() > 300
        assert count(image[29], BLUE) == 2 * count(image[11], BLUE)

    def test_none_is_room_for_those_to_come(self):
        image = self.strip().draw([])
        assert image.shape == (32, 160, 3)
        assert (image == BACKGROUND).all()

    def test_no_more_than_24_are_drawn(self):
        labels = [str(i) for i in range(30)]
        bars = [Bar(label, 1.0, "", i >= 24) for i, label in enumerate(labels)]
        strip, of_24 = (Strip(84, 160, [], labels[:n]) for n in (30, 24))
        assert strip.height == of_24.height == 24 * 14 + 4
        image = strip.draw([], bars)
        np.testing.assert_array_equal(image, of_24.draw([], bars[:24]))
        assert count(image, ORANGE) == 0
        assert [count(image[9 + 14 * i], BLUE) > 40 for i in range(24)] == [True] * 24

    def test_many_stand_in_several_columns(self):
        labels = [str(i) for i in range(18)]
        strip = Strip(400, 600, [], labels)
        image = strip.draw([], [Bar(label, 1.0, "0.50", True) for label in labels])
        assert strip.height == 6 * 18 + 4
        lengths = [count(image[11 + 18 * i], ORANGE) for i in range(6)]
        assert len(set(lengths)) == 1
        columns, _ = drawn(image)
        assert columns.max() < 596


class TestUnder:
    def test_a_strip_of_the_same_width(self):
        whole = under(np.full((2, 3, 3), 200, np.uint8), np.full((1, 3, 3), 50, np.uint8))
        assert whole[:, :, 0].tolist() == [[200] * 3, [200] * 3, [50] * 3]
        assert whole.dtype == np.uint8

    def test_the_picture_is_in_the_middle_of_a_wider_one(self):
        g = BACKGROUND
        whole = under(np.full((1, 2, 3), 200, np.uint8), np.full((1, 5, 3), 50, np.uint8))
        assert whole[:, :, 0].tolist() == [[g, 200, 200, g, g], [50] * 5]

    def test_no_strip(self):
        picture = np.full((2, 3, 3), 200, np.uint8)
        np.testing.assert_array_equal(under(picture, np.zeros((0, 3, 3), np.uint8)), picture)

    def test_the_picture_is_not_touched(self):
        picture = np.full((2, 3, 3), 200, np.uint8)
        under(picture, np.zeros((1, 3, 3), np.uint8))[:] = 0
        assert (picture == 200).all()


class TestTinted:
    def test_is_red_where_the_map_is_strong(self):
        picture = np.full((2, 2, 3), 101, np.uint8)
        shown = tinted(picture, np.array([[1.0, 0.5], [0.0, 0.0]]))
        # 0.7 of the red over 0.3 of the picture, and half of that.
        assert shown.tolist() == [[[209, 58, 58], [155, 80, 80]], [[101] * 3, [101] * 3]]
        assert shown.dtype == np.uint8
        assert (picture == 101).all()

    def test_without_strength_is_the_picture(self):
        picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        np.testing.assert_array_equal(tinted(picture, np.zeros((12, 12))), picture)

    def test_a_small_map_is_stretched_over_all_of_the_picture(self):
        picture = np.full((60, 90, 3), 101, np.uint8)
        strength = np.zeros((3, 3))
        strength[0, 2] = 1.0  # above, on the right
        shown = tinted(picture, strength)
        assert shown[0, 89].tolist() == [209, 58, 58]
        assert shown[5, 80, 0] > 200
        assert (shown[40:] == 101).all()
        assert (shown[:, :30] == 101).all()

    def test_no_place_is_more_than_strong_or_less_than_weak(self):
        picture = np.full((1, 2, 3), 101, np.uint8)
        shown = tinted(picture, np.array([[9.0, -9.0]]))
        assert shown.tolist() == [[[209, 58, 58], [101] * 3]]


class TestReference:
    @staticmethod
    def kept():
        with Image.open(REFERENCE) as image:
            return np.asarray(image.convert("RGB")), image.info["drawn by"]

    @staticmethod
    def difference(frame, other):
        """In the strip, a mean."""
        return np.abs(frame[200:].astype(int) - other[200:]).mean()

    def test_the_drawing_is_as_it_was(self):
        expected, by = self.kept()
        shown = example()
        assert shown.shape == expected.shape
        np.testing.assert_array_equal(shown[:200], expected[:200])
        # Builds of FreeType differ by little at the edges of letters.
        assert self.difference(shown, expected) < (0.5 if by != drawn_by() else 1e-9)

    def test_a_word_or_a_bar_less_is_more_than_the_difference_allowed(self):
        expected, _ = self.kept()
        for i in range(len(ITEMS)):
            without = [Item("", "") if i == j else item for j, item in enumerate(ITEMS)]
            assert self.difference(example(without), expected) > 0.5
        assert self.difference(example(bars=BARS[:2]), expected) > 0.5

    def test_is_small(self):
        assert REFERENCE.stat().st_size < 20_000


if __name__ == "__main__":
    draw_again()


def test_no_sign_of_a_zero_return():
    assert number(-0.04) in ("0", "0.0")
