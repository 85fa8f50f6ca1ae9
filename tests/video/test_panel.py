"""The panel below pictures, pixel by pixel, and once against a reference image.

``reference_panel.png`` shows what `example` draws. After an intended change, draw it again with
``PYTHONPATH=. python tests/video/test_panel.py`` and look at it.
"""

from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.ft2font import FT2Font
from PIL import Image, PngImagePlugin, features

from tfpg.video.frames import BACKGROUND, add_below
from tfpg.video.panel import Bar, Field, Panel, flow, font_size, load_font, printable

REFERENCE = Path(__file__).parent / "reference_panel.png"
ORANGE = (255, 165, 60)
BLUE = (90, 130, 180)
TRACK = (52, 52, 52)

FIELDS = (
    Field("", "before training"),
    Field("step", "00000"),
    Field("return"),
    Field("value", "-0000.00"),
)
TEXTS = ("after training", "137", "-21.5", "-3.25")
BARS = (
    Bar("left", 0.08, "0.08", False),
    Bar("coast", 0.25, "0.25", False),
    Bar("right", 0.67, "0.67", True),
)


def example(texts=TEXTS, bars=BARS):
    """A plain picture in the size of a GIF, with a panel below it."""
    picture = np.full((200, 300, 3), 250, np.uint8)
    picture[150:154] = 60
    picture[120:150, 130:180] = (200, 30, 40)
    panel = Panel(200, 300, FIELDS, [bar.label for bar in BARS])
    return add_below(picture, panel.draw(texts, bars))


def drawn_by():
    """The software that decides every pixel of a letter."""
    font = ".".join(load_font(10).getname())
    return f"Pillow {PIL.__version__}, FreeType {features.version('freetype2')}, {font}"


def count(line, color):
    return int((line == color).all(axis=-1).sum())


def drawn(image):
    """The columns and the rows in which something is drawn."""
    marks = (image != BACKGROUND).any(axis=-1)
    return np.flatnonzero(marks.any(axis=0)), np.flatnonzero(marks.any(axis=1))


@pytest.mark.parametrize(
    ("height", "size"), [(1, 10), (84, 10), (280, 10), (308, 11), (400, 14), (504, 18), (4000, 18)]
)
def test_the_font_size_follows_the_picture_between_10_and_18(height, size):
    assert font_size(height) == size


class TestFlow:
    @pytest.mark.parametrize(
        ("widths", "line", "gap", "expected"),
        [
            ([], 70, 5, ([], 0)),
            ([30, 35], 70, 5, ([(0, 0), (35, 0)], 1)),  # just fits
            ([30, 36], 70, 5, ([(0, 0), (0, 1)], 2)),
            ([90, 90, 10], 70, 5, ([(0, 0), (0, 1), (0, 2)], 3)),
        ],
    )
    def test_lines_are_filled_from_left_to_right(self, widths, line, gap, expected):
        assert flow(widths, line, gap) == expected

    @given(
        widths=st.lists(st.integers(1, 120), max_size=12),
        line=st.integers(1, 300),
        gap=st.integers(0, 20),
    )
    @settings(max_examples=300, deadline=None)
    def test_words_never_overlap_and_lines_are_full(self, widths, line, gap):
        places, lines = flow(widths, line, gap)
        assert sorted({y for _, y in places}) == list(range(lines))
        words = [
            [(x, width) for (x, y), width in zip(places, widths, strict=True) if y == each]
            for each in range(lines)
        ]
        for row in words:
            assert row[0][0] == 0
            for (x, width), (following, _) in pairwise(row):
                assert following == x + width + gap
            last, width = row[-1]
            assert last + width <= line or len(row) == 1
        for above, below in pairwise(words):
            last, width = above[-1]
            assert last + width + gap + below[0][1] > line


class TestSize:
    def test_without_anything_to_draw_there_is_no_panel(self):
        panel = Panel(400, 600, [])
        assert (panel.height, panel.width) == (0, 600)

    @pytest.mark.parametrize(
        ("height", "width", "fields", "bars", "expected"),
        [
            (400, 600, 1, 0, 18 + 4),
            (400, 600, 1, 2, 3 * 18 + 4),
            (400, 600, 0, 2, 2 * 18 + 4),
            (84, 160, 0, 2, 2 * 14 + 4),
            # More than three bars are side by side where there is room.
            (400, 600, 0, 3, 3 * 18 + 4),
            (400, 600, 0, 4, 2 * 18 + 4),
            (400, 600, 0, 6, 3 * 18 + 4),
            (400, 200, 0, 6, 6 * 18 + 4),
            (84, 400, 3, 0, 14 + 4),
            (84, 100, 3, 0, 3 * 14 + 4),
        ],
    )
    def test_there_is_a_line_for_texts_and_one_for_each_row_of_bars(
        self, height, width, fields, bars, expected
    ):
        labels = list("abcdef")[:bars]
        panel = Panel(height, width, [Field("return")] * fields, labels)
        assert (panel.height, panel.width) == (expected, width)
        drawing = panel.draw(["0"] * fields)
        assert (drawing.shape, drawing.dtype) == ((expected, width, 3), np.uint8)

    def test_it_is_wider_than_the_picture_where_a_text_needs_it(self):
        panel = Panel(84, 20, [Field("return")])
        assert 60 < panel.width < 110
        columns, _ = drawn(panel.draw(["-1234.5"]))
        assert columns.max() < panel.width - 4

    def test_it_is_as_wide_as_a_label_a_bar_and_a_number(self):
        short, long = (Panel(84, 10, [], [label]) for label in ("a", "a very long label"))
        assert 90 < short.width < long.width
        line = long.draw([], [Bar("a very long label", 1.0, "0.50", True)])[9]
        assert count(line, ORANGE) >= 28

    def test_a_text_is_needed_for_every_field(self):
        with pytest.raises(ValueError, match="zip"):
            Panel(400, 600, [Field("step")]).draw(["0", "0"])


class TestTexts:
    def test_texts_are_light_and_a_title_is_amber(self):
        panel = Panel(600, 600, [Field("", "HILL"), Field("", "H")])
        assert panel.draw(["HILL", ""]).max(axis=(0, 1)).tolist() == [255, 190, 90]
        panel = Panel(600, 600, [Field("I", "H")])
        assert panel.draw(["H"]).max(axis=(0, 1)).tolist() == [235, 235, 235]

    @pytest.mark.parametrize("text", ["0", "99999", ""])
    def test_words_stay_in_place_while_a_number_changes(self, text):
        fields = [Field("step", "00000"), Field("return"), Field("value")]
        panel = Panel(400, 600, fields)
        before, after = panel.draw(["7", "-1.5", "3"]), panel.draw([text, "-1.5", "3"])
        changed = np.flatnonzero((before != after).any(axis=(0, 2)))
        word = drawn(Panel(400, 600, fields[:1]).draw([""]))[0].max()
        # The widest number ends before the next word begins.
        end = drawn(Panel(400, 600, fields[:1]).draw(["00000"]))[0].max()
        assert word < changed.min()
        assert changed.max() <= end
        assert (before[:, end + 1 :] == after[:, end + 1 :]).all()

    @pytest.mark.parametrize(("height", "width"), [(84, 84), (210, 160), (400, 600), (900, 1200)])
    def test_nothing_is_drawn_at_the_edge(self, height, width):
        panel = Panel(height, width, [Field("", "Ågy|"), Field("value")], ["left engine"])
        image = panel.draw(["Ågy|", "-0000.0"], [Bar("left engine", 1.0, "-0000.0", True)])
        columns, rows = drawn(image)
        assert 4 <= columns.min() <= columns.max() < panel.width - 4
        assert 1 <= rows.min() <= rows.max() < panel.height - 1

    def test_letters_outside_ascii_are_drawn(self):
        panel = Panel(400, 600, [Field("", "größer")])
        assert len({panel.draw([t]).tobytes() for t in ("größer", "gr□□er", "εντροπία")}) == 3


class TestBars:
    # Below a picture of 84 x 160 the middle of the first bar is row 9, the next is 14 rows below.
    @staticmethod
    def panel(labels=("left", "right")):
        return Panel(84, 160, [], labels)

    def whole(self):
        """The length of a full bar in pixels, and where it begins."""
        line = self.panel().draw([], [Bar("left", 1.0, "", False)])[9]
        return count(line, BLUE), int(np.flatnonzero((line == BLUE).all(axis=-1))[0])

    @pytest.mark.parametrize("share", [-0.5, 0.0, 0.1, 0.25, 0.5, 0.9, 1.0, 1.5])
    @pytest.mark.parametrize("text", ["0.00", "-0000.0"])
    def test_a_bar_fills_its_share_of_the_track(self, share, text):
        length, start = self.whole()
        assert length > 40
        line = self.panel().draw([], [Bar("left", share, text, False)])[9]
        filled = np.flatnonzero((line == BLUE).all(axis=-1))
        assert len(filled) == pytest.approx(min(max(share, 0), 1) * length, abs=1.5)
        assert filled.tolist() == list(range(start, start + len(filled)))
        assert count(line[: start + length], TRACK) == length - len(filled)

    def test_the_chosen_bar_is_orange(self):
        bars = [Bar("left", 0.5, "0.50", False), Bar("right", 0.5, "0.50", True)]
        image = self.panel().draw([], bars)
        assert (count(image[9], BLUE) > 20, count(image[9], ORANGE)) == (True, 0)
        assert (count(image[23], ORANGE) > 20, count(image[23], BLUE)) == (True, 0)

    def test_bars_are_below_the_texts_and_apart_from_each_other(self):
        panel = Panel(84, 160, [Field("step")], ["left", "right"])
        image = panel.draw([""], [Bar("left", 1.0, "", True), Bar("right", 1.0, "", True)])
        rows = np.flatnonzero((image == ORANGE).all(axis=-1).any(axis=1))
        assert rows.tolist() == [*range(19, 28), *range(33, 42)]

    def test_the_label_is_left_and_the_number_right_of_its_bar(self):
        length, start = self.whole()
        image = self.panel().draw([], [Bar("left", 1.0, "-0000.0", False)])
        assert image[:16, :start].max() > 200
        assert image[:16, start + length :].max() > 200
        assert (image[16:] == BACKGROUND).all()  # the other bar is not known

    def test_columns_are_filled_from_top_to_bottom(self):
        panel = Panel(400, 600, [], list("abcd"))
        image = panel.draw([], [Bar("a", 1.0, "", i == 2) for i in range(4)])
        orange = np.argwhere((image == ORANGE).all(axis=-1))
        # The third of four is at the top of the right column.
        assert orange[:, 0].max() < 22
        assert orange[:, 1].min() > 300
        assert count(image[29], BLUE) == 2 * count(image[11], BLUE)

    def test_only_24_bars_are_drawn(self):
        labels = [str(i) for i in range(30)]
        bars = [Bar(label, 1.0, "", i >= 24) for i, label in enumerate(labels)]
        panel, of_24 = (Panel(84, 160, [], labels[:n]) for n in (30, 24))
        assert panel.height == of_24.height == 24 * 14 + 4
        image = panel.draw([], bars)
        np.testing.assert_array_equal(image, of_24.draw([], bars[:24]))
        assert count(image, ORANGE) == 0

    def test_many_bars_stand_in_columns_of_one_width(self):
        labels = [str(i) for i in range(18)]
        image = Panel(400, 600, [], labels).draw(
            [], [Bar(label, 1.0, "0.50", True) for label in labels]
        )
        assert len(image) == 6 * 18 + 4
        assert len({count(image[11 + 18 * i], ORANGE) for i in range(6)}) == 1
        assert drawn(image)[0].max() < 596


class TestReference:
    ALLOWED = 0.3  # builds of FreeType differ a little at the edges of letters

    @staticmethod
    def difference(frame, other):
        """The mean difference inside the panel."""
        return np.abs(frame[200:].astype(int) - other[200:]).mean()

    def test_the_drawing_equals_the_reference_image(self):
        with Image.open(REFERENCE) as image:
            expected, by = np.asarray(image.convert("RGB")), image.info["drawn by"]
        shown = example()
        np.testing.assert_array_equal(shown[:200], expected[:200])
        assert self.difference(shown, expected) < (self.ALLOWED if by != drawn_by() else 1e-9)

    def test_a_missing_text_or_bar_is_more_than_the_difference_allowed(self):
        for i in range(len(TEXTS)):
            without = ["" if i == j else text for j, text in enumerate(TEXTS)]
            assert self.difference(example(without), example()) > self.ALLOWED
        assert self.difference(example(bars=BARS[:2]), example()) > self.ALLOWED


def only_in(name, other):
    """A character that one of Matplotlib's fonts has and another has not."""
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    one, two = (set(FT2Font(str(folder / x)).get_charmap()) for x in (name, other))
    return chr(min(x for x in one - two if x > 0x2000))


def test_a_font_is_found_that_has_the_characters():
    text = "a" + only_in("STIXGeneral.ttf", "DejaVuSans.ttf")
    shown, font = printable(text, 14)
    assert shown == text
    assert font.getname() != load_font(14).getname()
    assert font.getmask(text).getbbox() is not None


@pytest.mark.parametrize("text", ["обучение", "μ ± 2", "école → 2"])
def test_matplotlibs_font_draws_many_scripts(text):
    assert printable(text, 14) == (text, load_font(14))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\U0010fffd", "\\U0010fffd"), ("a\ue123b", "a\\ue123b"), ("é\uf8f0", "é\\uf8f0")],
)
def test_characters_that_no_font_has_are_escaped(text, shown):
    assert printable(text, 14) == (shown, load_font(14))
    panel = Panel(300, 400, [Field("", text)])
    assert panel.width >= load_font(14).getlength(shown)
    np.testing.assert_array_equal(
        panel.draw([text]), Panel(300, 400, [Field("", shown)]).draw([shown])
    )


if __name__ == "__main__":
    info = PngImagePlugin.PngInfo()
    info.add_text("drawn by", drawn_by())
    Image.fromarray(example()).save(REFERENCE, optimize=True, pnginfo=info)
