import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.reporting.charts import Series, compact, line_chart, ticks


class TestCharts:
    @given(st.floats(-1e9, 1e9, allow_subnormal=False), st.floats(1e-4, 1e4), st.booleans())
    def test_ticks_cover_the_range_with_round_steps(self, low, spread, is_point):
        high = low if is_point else low + spread * (abs(low) or 1)
        marks = ticks(low, high)
        step = marks[1] - marks[0]
        slack = 1e-6 * max(step, abs(low), abs(high))
        assert marks[0] <= low + slack
        assert marks[-1] >= high - slack
        assert 2 <= len(marks) <= 7
        assert all(b - a == pytest.approx(step, rel=1e-6) for a, b in itertools.pairwise(marks))
        factor = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert any(factor == pytest.approx(f, rel=1e-4) for f in (1, 2, 2.5, 5))

    @pytest.mark.parametrize(
        ("low", "high", "marks"),
        [(0, 100, [0, 25, 50, 75, 100]), (0, 31, [0, 10, 20, 30, 40]), (1.2, 7.9, [0, 2, 4, 6, 8]),
         (5, 5, [2, 4, 6, 8]), (0, 0, [-0.5, -0.25, 0, 0.25, 0.5])],
    )  # fmt: skip
    def test_ticks_known(self, low, high, marks):
        assert ticks(low, high) == pytest.approx(marks)

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (3.14159, "3.142"), (12000, "12,000"), (0.001, "0.001"), (1.5e-5, "1.5e-05"),
         (2_500_000, "2.5M"), (-1234.5, "-1,234"), (100, "100")],
    )  # fmt: skip
    def test_compact(self, value, text):
        assert compact(value) == text

    @staticmethod
    def points(markup):
        drawn = re.findall(r'<polyline class="line s(\d)" points="([^"]*)"', markup)
        return [
            (int(n), [tuple(map(float, p.split(","))) for p in points.split()])
            for n, points in drawn
        ]

    def test_points_stand_at_their_ticks(self):
        series = Series("loss", [(0, 0.0), (50, 25.0), (100, 100.0)])
        ((_, points),) = self.points(line_chart("Loss", [series]))
        markup = line_chart("Loss", [series])
        grid = [
            tuple(map(float, found))
            for found in re.findall(
                r'<line class="(?:axis|grid)" x1="([\d.]+)" x2="([\d.]+)" y1="([\d.]+)"', markup
            )
        ]
        assert len(grid) == 5
        assert points[0] == (grid[0][0], grid[0][2])
        assert points[1][1] == grid[1][2]
        assert points[2] == (grid[4][1], grid[4][2])
        assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.1)

    def test_long_logs_are_averaged_and_keep_their_end(self):
        raw = [(i, float(i % 2)) for i in range(1, 10_001)]
        ((_, points),) = self.points(line_chart("Loss", [Series("loss", raw)]))
        assert len(points) <= 240
        # All but the last point are means of as many zeros as ones.
        assert len({y for _, y in points[:-1]}) == 1
        assert points[-1][1] != points[0][1]
        assert len(line_chart("Loss", [Series("loss", raw)])) < 60_000

    def test_highest_is_marked_at_its_place(self):
        series = [Series("BLEU", [(1, 3.0), (2, 31.234), (3, 20.0)], has_dots=True)]
        markup = line_chart("Scores", series, mark_highest=True, from_zero=True)
        x, y = re.search(r'<text class="best" x="([\d.]+)" y="([\d.]+)"', markup).groups()
        ((_, points),) = self.points(markup)
        assert (float(x), float(y) + 10) == pytest.approx(points[1], abs=0.11)
        assert "best 31.2<" in markup

    def test_key_and_tool_tips_name_the_values(self):
        markup = line_chart(
            "Loss <1>",
            [Series("train & co", [(1, 3.0), (2, 2.0)]), Series("validation", [(2, 2.5)], True)],
        )
        assert "Loss &lt;1&gt;" in markup
        assert ">train &amp; co</span> 2<" in markup
        tips = re.findall(r'<g class="strip"><title [^>]*>([^<]*)</title>', markup)
        assert tips == [
            "train &amp; co 3 (step 1)\nvalidation 2.5 (step 2)",
            "train &amp; co 2 (step 2)\nvalidation 2.5 (step 2)",
        ]

    def test_strips_cover_the_drawing_without_gaps(self):
        markup = line_chart("Loss", [Series("loss", [(i**2, 1.0 + i) for i in range(1, 400)])])
        strips = [
            (float(x), float(width))
            for x, width in re.findall(r'<rect x="([-\d.]+)" y="[\d.]+" width="([\d.]+)"', markup)
        ]
        assert 60 <= len(strips) <= 120
        for (x, width), (following, _) in itertools.pairwise(strips):
            assert x + width == pytest.approx(following, abs=0.11)

    @pytest.mark.parametrize("points", [[(5, 2.0)], [(5, 2.0), (5, 2.0)], [(1, 0.0), (2, 0.0)]])
    def test_degenerate_series_are_drawn(self, points):
        markup = line_chart("Loss", [Series("loss", points)], mark_highest=True)
        assert "nan" not in markup
        assert len(self.points(markup)[0][1]) == len(points)

    def test_nothing_to_draw(self):
        assert line_chart("Loss", []) == ""
        assert line_chart("Loss", [Series("a", []), Series("b", [])]) == ""
