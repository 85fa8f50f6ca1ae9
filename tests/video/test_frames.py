"""Pure functions on frames, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpg.video.frames import BACKGROUND, add_below, as_frame, crop, letterbox, rescale, tile, tint

sides = st.integers(1, 40)


def plain(value, height=1, width=1):
    return np.full((height, width, 3), value, np.uint8)


def numbered(height, width):
    """A frame in which no two pixels are alike."""
    count = height * width
    pixels = np.stack([np.arange(count), np.arange(count)[::-1], np.full(count, 7)], axis=-1)
    return pixels.reshape(height, width, 3).astype(np.uint8)


class TestAsFrame:
    def test_rgb_uint8_is_returned_unchanged(self):
        image = numbered(3, 5)
        np.testing.assert_array_equal(as_frame(image), image)

    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            (np.array([[7]], np.uint8), [[[7, 7, 7]]]),
            (np.array([[[7]]], np.uint8), [[[7, 7, 7]]]),
            (np.array([[[1, 2, 3, 0]]], np.uint8), [[[1, 2, 3]]]),
            (np.array([[True, False]]), [[[255] * 3, [0] * 3]]),
            (np.array([[0, 128, 255]], np.int64), [[[0] * 3, [128] * 3, [255] * 3]]),
            (np.array([[1, 0]], np.int32), [[[1] * 3, [0] * 3]]),  # integers are not scaled
            (np.array([[255, 0]], np.uint16), [[[255] * 3, [0] * 3]]),
            ([[0, 9]], [[[0] * 3, [9] * 3]]),
            (np.zeros((1, 1, 3)), [[[0, 0, 0]]]),
            # The alpha channel does not decide the range of the colors, and may be anything.
            (np.array([[[0.0, 1.0, 0.5, 255.0]]]), [[[0, 255, 128]]]),
            (np.array([[[0.0, 1.0, 0.5, np.nan]]]), [[[0, 255, 128]]]),
        ],
    )
    def test_images_of_all_kinds_become_rgb_uint8(self, image, expected):
        frame = as_frame(image)
        assert frame.dtype == np.uint8
        assert frame.tolist() == expected

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_up_to_1_are_scaled_and_larger_ones_rounded(self, dtype):
        small, large = (
            np.array([[0.0, 0.25, 0.5, 1.0]], dtype),
            np.array([[0.0, 0.75, 254.75]], dtype),
        )
        assert as_frame(small)[0, :, 0].tolist() == [0, 64, 128, 255]
        assert as_frame(large)[0, :, 0].tolist() == [0, 1, 255]

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros(3), "but got shape (3,) of float64."),
            (np.zeros((2, 2, 2), np.uint8), "but got shape (2, 2, 2) of uint8."),
            (np.zeros((2, 2, 5), np.uint8), "but got shape (2, 2, 5) of uint8."),
            (np.zeros((1, 2, 2, 3), np.uint8), "but got shape (1, 2, 2, 3) of uint8."),
            (np.zeros((0, 4, 3), np.uint8), "but got shape (0, 4, 3) of uint8."),
            (None, "but got shape () of object."),
            (np.array([[0.5, np.nan]]), "but got float64 values from nan to nan."),
            (np.array([[0.5, np.inf]]), "but got float64 values from 0.5 to inf."),
            (np.array([[-0.01, 1.0]]), "but got float64 values from -0.01 to 1.0."),
            (np.array([[3.0, 255.5]], np.float32), "but got float32 values from 3.0 to 255.5."),
            (np.array([[0, 256]]), "but got int64 values from 0 to 256."),
        ],
    )
    def test_arrays_that_are_not_images_are_refused(self, image, message):
        with pytest.raises(ValueError, match="Expected") as error:
            as_frame(image)
        assert str(error.value).endswith(message)


class TestCrop:
    def test_returns_the_part_from_left_and_top_up_to_right_and_bottom(self):
        frame = numbered(4, 6)
        assert crop(frame, (1, 2, 4, 4))[:, :, 0].tolist() == [[13, 14, 15], [19, 20, 21]]
        np.testing.assert_array_equal(crop(frame, (0, 0, 6, 4)), frame)
        assert crop(frame, (5, 3, 6, 4))[:, :, 0].tolist() == [[23]]

    @pytest.mark.parametrize(
        "box",
        [(-1, 0, 3, 3), (0, -1, 3, 3), (0, 0, 7, 4), (0, 0, 6, 5), (3, 0, 3, 4), (0, 3, 6, 2)],
    )
    def test_a_box_that_is_empty_or_not_within_the_frame_is_refused(self, box):
        with pytest.raises(ValueError, match="which is 6 pixels wide and 4 high, but it is"):
            crop(numbered(4, 6), box)


class TestRescale:
    def test_scale_1_returns_the_frame_itself(self):
        frame = numbered(3, 5)
        assert rescale(frame, 1.0) is frame

    @pytest.mark.parametrize("factor", [2, 3, 5.0])
    def test_integer_factors_repeat_pixels(self, factor):
        frame = numbered(3, 5)
        expected = frame.repeat(int(factor), axis=0).repeat(int(factor), axis=1)
        np.testing.assert_array_equal(rescale(frame, factor), expected)

    def test_shrinking_averages_pixels(self):
        frame = as_frame(np.array([[0, 20, 10, 10], [80, 60, 10, 50]]))
        assert rescale(frame, 0.5)[:, :, 0].tolist() == [[40, 20]]

    @pytest.mark.parametrize(
        ("height", "width", "scale", "expected"),
        [
            (10, 20, 1.5, (15, 30)),
            (7, 5, 0.5, (4, 2)),  # 3.5 and 2.5 are rounded to even
            (210, 160, 1.1, (231, 176)),
            (1, 1, 0.01, (1, 1)),
        ],
    )
    def test_sides_are_rounded_and_at_least_one_pixel(self, height, width, scale, expected):
        frame = rescale(plain((10, 200, 60), height, width), scale)
        assert frame.shape == (*expected, 3)
        assert np.unique(frame.reshape(-1, 3), axis=0).tolist() == [[10, 200, 60]]

    def test_other_factors_interpolate(self):
        row = rescale(as_frame(np.array([[0, 100], [0, 100]])), 2.5)[0, :, 0]
        assert 0 < row[2] < 100

    def test_a_crop_can_be_scaled(self):
        part = crop(numbered(4, 6), (1, 1, 3, 3))
        assert rescale(part, 2)[:, :, 0].tolist() == [[7, 7, 8, 8]] * 2 + [[13, 13, 14, 14]] * 2


class TestLetterbox:
    def test_a_frame_of_that_size_is_returned_itself(self):
        frame = numbered(3, 5)
        assert letterbox(frame, 3, 5) is frame

    def test_black_bars_fill_the_rest(self):
        assert letterbox(plain(9, 10, 10), 4, 6)[:, :, 0].tolist() == [[0, 9, 9, 9, 9, 0]] * 4
        assert letterbox(plain(9, 2, 2), 6, 4)[:, 1, 0].tolist() == [0, 9, 9, 9, 9, 0]
        assert letterbox(plain(9, 2, 2), 2, 5)[0, :, 0].tolist() == [0, 9, 9, 0, 0]

    def test_integer_factors_keep_pixels_sharp(self):
        frame = numbered(2, 3)
        shown = letterbox(frame, 4, 8)
        np.testing.assert_array_equal(shown[:, 1:7], frame.repeat(2, axis=0).repeat(2, axis=1))
        assert shown[:, [0, 7]].max() == 0

    @given(sides, sides, sides, sides)
    @settings(max_examples=200, deadline=None)
    def test_the_frame_is_centered_and_keeps_its_aspect_ratio(self, rows, columns, height, width):
        shown = letterbox(plain(200, rows, columns), height, width)
        assert shown.shape == (height, width, 3)
        assert set(np.unique(shown)) <= {0, 200}
        lit = np.argwhere(shown[:, :, 0])
        (top, left), (bottom, right) = lit.min(axis=0), lit.max(axis=0) + 1
        assert shown[top:bottom, left:right].min() == 200
        scale = min(height / rows, width / columns)
        assert bottom - top == height or right - left == width
        assert abs((bottom - top) - max(1, rows * scale)) <= 0.5 + 1e-9
        assert abs((right - left) - max(1, columns * scale)) <= 0.5 + 1e-9
        assert height - bottom - top in (0, 1)
        assert width - right - left in (0, 1)


class TestTile:
    def test_rows_are_filled_from_left_to_right_with_lines_between(self):
        a, b, c = (plain(value, 1, 2) for value in (1, 2, 3))
        g = BACKGROUND
        assert tile([a, b, c], columns=2, gap=1)[:, :, 0].tolist() == [
            [1, 1, g, 2, 2],
            [g, g, g, g, g],
            [3, 3, g, g, g],
        ]
        assert tile([plain(1)] * 2, columns=2)[0, :, 0].tolist() == [1, g, g, g, g, 1]

    @given(
        count=st.integers(1, 9),
        columns=st.integers(1, 5),
        gap=st.integers(0, 5),
        height=st.integers(1, 6),
        width=st.integers(1, 6),
    )
    @settings(max_examples=100, deadline=None)
    def test_each_frame_has_its_place(self, count, columns, gap, height, width):
        grid = tile([plain(100 + i, height, width) for i in range(count)], columns, gap)
        rows = (count + columns - 1) // columns
        shape = rows * height + (rows - 1) * gap, columns * width + (columns - 1) * gap, 3
        assert grid.shape == shape
        for i in range(count):
            y, x = i // columns * (height + gap), i % columns * (width + gap)
            assert (grid[y : y + height, x : x + width] == 100 + i).all()
        assert (grid != BACKGROUND).sum() == count * height * width * 3


class TestAddBelow:
    def test_a_panel_of_the_same_width(self):
        picture = plain(200, 2, 3)
        whole = add_below(picture, plain(50, 1, 3))
        assert whole[:, :, 0].tolist() == [[200] * 3, [200] * 3, [50] * 3]
        whole[:] = 0
        assert (picture == 200).all()

    def test_the_picture_is_centered_above_a_wider_panel(self):
        g = BACKGROUND
        whole = add_below(plain(200, 1, 2), plain(50, 1, 5))
        assert whole[:, :, 0].tolist() == [[g, 200, 200, g, g], [50] * 5]


class TestTint:
    def test_is_red_where_the_map_is_strong(self):
        picture = plain(101, 2, 2)
        # 0.7 of red over 0.3 of the picture, and half of that.
        shown = tint(picture, np.array([[1.0, 0.5], [0.0, 0.0]]))
        assert shown.tolist() == [[[209, 58, 58], [155, 80, 80]], [[101] * 3, [101] * 3]]
        assert (picture == 101).all()

    def test_a_small_map_is_stretched_over_the_picture(self):
        strength = np.zeros((3, 3))
        strength[0, 2] = 1.0
        shown = tint(plain(101, 60, 90), strength)
        assert shown[0, 89].tolist() == [209, 58, 58]
        assert (shown[40:] == 101).all()
        assert (shown[:, :30] == 101).all()

    def test_strength_is_clipped_to_0_and_1(self):
        assert tint(plain(101, 1, 2), np.array([[9.0, -9.0]])).tolist() == [
            [[209, 58, 58], [101] * 3]
        ]
