import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpg.video.frames import BACKGROUND, as_frame, cropped, dimmed, fitted, scaled, tiled

sides = st.integers(1, 40)


def plain(value, height=1, width=1):
    return np.full((height, width, 3), value, np.uint8)


def numbered(height, width):
    """No two pixels alike."""
    count = height * width
    pixels = np.stack([np.arange(count), np.arange(count)[::-1], np.full(count, 7)], axis=-1)
    return pixels.reshape(height, width, 3).astype(np.uint8)


class TestAsFrame:
    def test_rgb_bytes_are_left_as_they_are(self):
        image = numbered(3, 5)
        frame = as_frame(image)
        assert frame.dtype == np.uint8
        np.testing.assert_array_equal(frame, image)

    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            (np.array([[7]], np.uint8), [[[7, 7, 7]]]),
            (np.array([[[7]]], np.uint8), [[[7, 7, 7]]]),
            (np.array([[[1, 2, 3]]], np.uint8), [[[1, 2, 3]]]),
            (np.array([[[1, 2, 3, 0]]], np.uint8), [[[1, 2, 3]]]),
            (np.array([[True, False]]), [[[255, 255, 255], [0, 0, 0]]]),
            (np.array([[0, 128, 255]], np.int64), [[[0] * 3, [128] * 3, [255] * 3]]),
            (np.array([[1, 0]], np.int32), [[[1] * 3, [0] * 3]]),  # integers mean what they say
            (np.array([[300 - 45, 0]], np.uint16), [[[255] * 3, [0] * 3]]),
            ([[0, 9]], [[[0] * 3, [9] * 3]]),
        ],
        ids=[
            *("one grey pixel", "one channel", "RGB", "RGBA", "bool", "int64", "int32", "uint16"),
            "list",
        ],
    )
    def test_what_environments_render(self, image, expected):
        frame = as_frame(image)
        assert frame.dtype == np.uint8
        assert frame.tolist() == expected

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_up_to_1_are_shares_of_255(self, dtype):
        image = np.array([[0.0, 0.25, 0.5, 1.0]], dtype)
        assert as_frame(image)[0, :, 0].tolist() == [0, 64, 128, 255]

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_above_1_are_bytes_and_rounded(self, dtype):
        image = np.array([[0.0, 0.75, 1.5, 254.75, 255.0]], dtype)
        assert as_frame(image)[0, :, 0].tolist() == [0, 1, 2, 255, 255]

    def test_an_opacity_says_nothing_of_the_range_of_colours(self):
        image = np.array([[[0.0, 1.0, 0.5, 255.0]]])
        assert as_frame(image).tolist() == [[[0, 255, 128]]]
        strange = np.array([[[0.0, 1.0, 0.5, np.nan]]])
        assert as_frame(strange).tolist() == [[[0, 255, 128]]]

    def test_black_floats_are_black(self):
        assert as_frame(np.zeros((2, 2, 3))).max() == 0

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros(3), "this is (3,) of float64."),
            (np.zeros((2, 2, 2), np.uint8), "this is (2, 2, 2) of uint8."),
            (np.zeros((2, 2, 5), np.uint8), "this is (2, 2, 5) of uint8."),
            (np.zeros((1, 2, 2, 3), np.uint8), "this is (1, 2, 2, 3) of uint8."),
            (np.zeros((0, 4, 3), np.uint8), "this is (0, 4, 3) of uint8."),
            (np.zeros((4, 0, 1), np.uint8), "this is (4, 0, 1) of uint8."),
            (None, "this is () of object."),
        ],
    )
    def test_what_has_not_the_shape_of_a_frame(self, image, message):
        with pytest.raises(ValueError, match="A frame is a .height, width, 3. array") as error:
            as_frame(image)
        assert str(error.value).endswith(message)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.array([[0.5, np.nan]]), "of float64 from nan to nan."),
            (np.array([[0.5, np.inf]]), "of float64 from 0.5 to inf."),
            (np.array([[-0.01, 1.0]]), "of float64 from -0.01 to 1.0."),
            (np.array([[3.0, 255.5]], np.float32), "of float32 from 3.0 to 255.5."),
            (np.array([[-1, 4]]), "of int64 from -1 to 4."),
            (np.array([[0, 256]]), "of int64 from 0 to 256."),
        ],
    )
    def test_numbers_that_are_no_colours(self, image, message):
        with pytest.raises(ValueError, match="holds numbers from 0 to 255") as error:
            as_frame(image)
        assert str(error.value).endswith(message)
        assert "\n" not in str(error.value)


class TestCropped:
    def test_is_the_part_from_left_and_top_up_to_right_and_bottom(self):
        frame = numbered(4, 6)
        assert cropped(frame, (1, 2, 4, 4))[:, :, 0].tolist() == [[13, 14, 15], [19, 20, 21]]

    def test_may_be_all_of_it_or_one_pixel(self):
        frame = numbered(4, 6)
        np.testing.assert_array_equal(cropped(frame, (0, 0, 6, 4)), frame)
        assert cropped(frame, (5, 3, 6, 4))[:, :, 0].tolist() == [[23]]

    @pytest.mark.parametrize(
        "box",
        [
            (-1, 0, 3, 3),
            (0, -1, 3, 3),
            (0, 0, 7, 4),
            (0, 0, 6, 5),
            (3, 0, 3, 4),
            (4, 0, 3, 4),
            (0, 2, 6, 2),
            (0, 3, 6, 2),
        ],
    )
    def test_what_is_empty_or_not_within_is_refused(self, box):
        with pytest.raises(ValueError, match="must be within the frame") as error:
            cropped(numbered(4, 6), box)
        assert str(error.value) == (
            "crop=(left, top, right, bottom) must be within the frame, which is 6 wide and 4 high, "
            f"and it is {box}."
        )


class TestScaled:
    def test_by_1_is_the_frame(self):
        frame = numbered(3, 5)
        assert scaled(frame, 1) is frame
        assert scaled(frame, 1.0) is frame

    @pytest.mark.parametrize("factor", [2, 3, 5.0])
    def test_whole_factors_repeat_pixels(self, factor):
        frame = numbered(3, 5)
        expected = frame.repeat(int(factor), axis=0).repeat(int(factor), axis=1)
        np.testing.assert_array_equal(scaled(frame, factor), expected)

    def test_reducing_takes_means(self):
        frame = as_frame(np.array([[0, 20, 10, 10], [80, 60, 10, 50]]))
        assert scaled(frame, 0.5)[:, :, 0].tolist() == [[40, 20]]

    @pytest.mark.parametrize(
        ("height", "width", "scale", "expected"),
        [
            (10, 20, 0.5, (5, 10)),
            (10, 20, 1.5, (15, 30)),
            (7, 5, 0.5, (4, 2)),  # 3.5 and 2.5 are rounded to even
            (210, 160, 1.1, (231, 176)),
            (1, 1, 0.01, (1, 1)),
            (1, 100, 0.1, (1, 10)),
        ],
    )
    def test_sides_are_rounded_and_one_pixel_at_least(self, height, width, scale, expected):
        assert scaled(plain(0, height, width), scale).shape == (*expected, 3)

    @pytest.mark.parametrize("scale", [0.3, 0.5, 1.4, 2])
    def test_one_colour_stays_that_colour(self, scale):
        frame = scaled(plain((10, 200, 60), 20, 30), scale)
        assert frame.dtype == np.uint8
        assert np.unique(frame.reshape(-1, 3), axis=0).tolist() == [[10, 200, 60]]

    def test_enlarging_by_no_whole_factor_is_smooth(self):
        row = scaled(as_frame(np.array([[0, 100], [0, 100]])), 2.5)[0, :, 0]
        assert len(row) == 5
        assert 0 < row[2] < 100

    def test_a_part_of_another_frame_can_be_scaled(self):
        part = cropped(numbered(4, 6), (1, 1, 3, 3))
        assert scaled(part, 2)[:, :, 0].tolist() == [[7, 7, 8, 8]] * 2 + [[13, 13, 14, 14]] * 2


class TestFitted:
    def test_in_its_own_size_is_the_frame(self):
        frame = numbered(3, 5)
        assert fitted(frame, 3, 5) is frame

    def test_has_black_left_and_right_or_above_and_below(self):
        assert fitted(plain(9, 10, 10), 4, 6)[:, :, 0].tolist() == [[0, 9, 9, 9, 9, 0]] * 4
        assert fitted(plain(9, 2, 2), 6, 4)[:, 1, 0].tolist() == [0, 9, 9, 9, 9, 0]

    def test_an_odd_rest_is_below_and_to_the_right(self):
        assert fitted(plain(9, 2, 2), 2, 5)[0, :, 0].tolist() == [0, 9, 9, 0, 0]
        assert fitted(plain(9, 2, 2), 5, 2)[:, 0, 0].tolist() == [0, 9, 9, 0, 0]

    def test_enlarges_by_whole_factors_with_sharp_pixels(self):
        frame = numbered(2, 3)
        shown = fitted(frame, 4, 8)
        np.testing.assert_array_equal(shown[:, 1:7], frame.repeat(2, axis=0).repeat(2, axis=1))
        assert shown[:, [0, 7]].max() == 0

    @given(sides, sides, sides, sides)
    @settings(max_examples=200, deadline=None)
    def test_has_the_asked_size_and_keeps_the_aspect_ratio(self, rows, columns, height, width):
        frame = plain(200, rows, columns)
        shown = fitted(frame, height, width)
        assert shown.shape == (height, width, 3)
        assert shown.dtype == np.uint8
        assert set(np.unique(shown)) <= {0, 200}
        lit = np.argwhere(shown[:, :, 0])
        (top, left), (bottom, right) = lit.min(axis=0), lit.max(axis=0) + 1
        assert shown[top:bottom, left:right].min() == 200
        # One side is filled, and the other as long as the aspect ratio says.
        scale = min(height / rows, width / columns)
        assert bottom - top == height or right - left == width
        assert abs((bottom - top) - max(1, rows * scale)) <= 0.5 + 1e-9
        assert abs((right - left) - max(1, columns * scale)) <= 0.5 + 1e-9
        # It is in the middle.
        assert height - bottom - top in (0, 1)
        assert width - right - left in (0, 1)


class TestTiled:
    def test_rows_from_left_to_right_with_dark_lines_between(self):
        a, b, c = (plain(value, 1, 2) for value in (1, 2, 3))
        g = BACKGROUND
        assert tiled([a, b, c], columns=2, gap=1)[:, :, 0].tolist() == [
            [1, 1, g, 2, 2],
            [g, g, g, g, g],
            [3, 3, g, g, g],
        ]

    def test_the_lines_are_four_pixels_wide(self):
        assert tiled([plain(1)] * 2, columns=2)[0, :, 0].tolist() == [1, *[BACKGROUND] * 4, 1]
        assert BACKGROUND == 24

    def test_one_alone_has_no_lines(self):
        frame = numbered(3, 5)
        np.testing.assert_array_equal(tiled([frame], columns=1), frame)

    @given(
        count=st.integers(1, 9),
        columns=st.integers(1, 5),
        gap=st.integers(0, 5),
        height=st.integers(1, 6),
        width=st.integers(1, 6),
    )
    @settings(max_examples=100, deadline=None)
    def test_each_frame_is_where_it_belongs(self, count, columns, gap, height, width):
        frames = [plain(100 + i, height, width) for i in range(count)]
        sheet = tiled(frames, columns, gap)
        rows = (count + columns - 1) // columns
        assert sheet.shape == (
            rows * height + (rows - 1) * gap,
            columns * width + (columns - 1) * gap,
            3,
        )
        for i in range(count):
            row, column = divmod(i, columns)
            y, x = row * (height + gap), column * (width + gap)
            assert (sheet[y : y + height, x : x + width] == 100 + i).all()
        assert (sheet != BACKGROUND).sum() == count * height * width * 3


def test_dimmed_is_half_as_bright_and_another_frame():
    frame = as_frame(np.array([[0, 1, 200, 255]]))
    shown = dimmed(frame)
    assert shown.dtype == np.uint8
    assert shown[0, :, 0].tolist() == [0, 0, 100, 127]
    assert frame[0, :, 0].tolist() == [0, 1, 200, 255]
