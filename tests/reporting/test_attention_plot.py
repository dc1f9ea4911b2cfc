import builtins
import sys
import warnings

import numpy as np
import pytest

from bahdanau_hf.alignment.record import Alignment
from bahdanau_hf.errors import InputError
from bahdanau_hf.reporting.attention_markup import alignment_html, alignment_svg, alignment_text
from bahdanau_hf.reporting.attention_plot import plot_alignment, save_alignment
from tests.helpers.small_alignment import ALIGNMENT, SOURCE, TARGET, WEIGHTS


def _font(path, characters, family=None, weight=400):
    """Write a font that has squares for some characters and nothing else."""
    fontTools = pytest.importorskip("fontTools.fontBuilder")
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for point in ((0, 0), (0, 500), (500, 500)):
        (pen.moveTo if point == (0, 0) else pen.lineTo)(point)
    pen.closePath()
    glyph = pen.glyph()
    names = [".notdef", *(f"u{ord(c):04X}" for c in characters)]
    builder = fontTools.FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):04X}" for c in characters})
    builder.setupGlyf(dict.fromkeys(names, glyph))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family or f"Test {path.stem}", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=weight)
    builder.setupPost()
    builder.save(path)
    return str(path)


class TestFigure:
    @pytest.fixture
    def fonts(self, monkeypatch):
        """The fonts that the machine is to have, besides matplotlib's own."""
        font_manager = pytest.importorskip("matplotlib.font_manager")
        found = []
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda *a, **k: list(found))
        own = [
            entry
            for entry in font_manager.fontManager.ttflist
            if "mpl-data" in entry.fname and "LastResort" not in entry.fname
        ]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
        font_manager.fontManager._findfont_cached.cache_clear()
        yield found
        font_manager.fontManager._findfont_cached.cache_clear()

    def test_labels_axes_and_image(self, fonts):
        figure = plot_alignment(WEIGHTS, SOURCE, list("abcd"), title="A $title^")
        axes = figure.axes[0]
        assert [label.get_text() for label in axes.get_xticklabels()] == SOURCE
        assert [label.get_text() for label in axes.get_yticklabels()] == list("abcd")
        assert [label.get_rotation() for label in axes.get_xticklabels()] == [90] * 3
        assert figure.axes[1].get_xlabel() == "attention weight"
        image = axes.get_images()[0]
        np.testing.assert_array_equal(image.get_array(), WEIGHTS)
        assert image.get_clim() == (0, 1)
        assert [text.get_text() for text in axes.texts] == [
            *("source →\ntarget ↓", "0.90", "0.95", "0.50", "0.25", "0.25", "1.00")
        ]

    def test_tokens_are_no_formulas(self, fonts, tmp_path):
        path = tmp_path / "map.png"
        tokens = ["$5$", "$x^$", r"\frac", "100%"]
        save_alignment(Alignment(tokens, tokens, np.eye(4)), path, title="$x^$")
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_settings_stay_as_they_were(self, fonts):
        import matplotlib

        sys.modules.pop("matplotlib.pyplot", None)
        # Read raw: looking up rcParams["backend"] would choose one, and load pyplot for it.
        before = matplotlib.rcParams.copy()
        plot_alignment(WEIGHTS, SOURCE, list("abcd"))
        assert dict.__eq__(before, matplotlib.rcParams)
        assert "matplotlib.pyplot" not in sys.modules

    def test_finds_the_font_that_has_the_characters(self, fonts, tmp_path):
        fonts.append(_font(tmp_path / "Half.ttf", "联系"))
        fonts.append(_font(tmp_path / "Whole.ttf", "联系我们。"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure = plot_alignment(WEIGHTS, SOURCE, TARGET)
            figure.savefig(tmp_path / "map.png")
        families = figure.axes[0].get_yticklabels()[0].get_fontproperties().get_family()
        assert families[-1] == "Test Whole"
        assert (
            save_alignment(Alignment(SOURCE, TARGET, WEIGHTS), tmp_path / "b.png")
            == tmp_path / "b.png"
        )
        assert not (tmp_path / "b.svg").exists()

    def test_finds_a_font_that_the_user_gave_to_matplotlib(self, fonts, tmp_path):
        from matplotlib import font_manager

        font_manager.fontManager.addfont(_font(tmp_path / "Given.ttf", "联系我们。"))
        figure = plot_alignment(WEIGHTS, SOURCE, TARGET)
        families = figure.axes[0].get_yticklabels()[0].get_fontproperties().get_family()
        assert families[-1] == "Test Given"
        assert len([e for e in font_manager.fontManager.ttflist if e.name == "Test Given"]) == 1

    def test_two_fonts_stand_in_for_one_another(self, fonts, tmp_path):
        fonts += [_font(tmp_path / "A.ttf", "联系"), _font(tmp_path / "B.ttf", "我们。")]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plot_alignment(WEIGHTS, SOURCE, TARGET).savefig(tmp_path / "map.png")

    def test_prefers_known_fonts_in_their_regular_weight(self, fonts, tmp_path):
        from matplotlib import font_manager

        for name, family, weight in (
            ("a.ttf", "AAA", 400),
            ("b.ttf", "Noto Sans CJK JP", 900),
            ("c.ttf", "Noto Sans CJK JP", 400),
            ("d.ttf", "SimSun", 400),
        ):
            fonts.append(_font(tmp_path / name, "联系我们。", family, weight))
        figure = plot_alignment(WEIGHTS, SOURCE, TARGET)
        properties = figure.axes[0].get_yticklabels()[0].get_fontproperties()
        assert properties.get_family()[1:] == ["Noto Sans CJK JP"]
        found = font_manager.findfont(font_manager.FontProperties(family=["Noto Sans CJK JP"]))
        assert found == str(tmp_path / "c.ttf")

    def test_one_warning_without_a_font_and_never_the_last_resort(self, fonts, tmp_path):
        fonts.append(_font(tmp_path / "LastResort.ttf", "联系我们。"))
        fonts.append(str(tmp_path / "absent.ttf"))
        with pytest.warns(UserWarning, match="no font on this machine has '。们我系联'") as caught:
            figure = plot_alignment(WEIGHTS, SOURCE, TARGET)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        families = figure.axes[0].get_yticklabels()[0].get_fontproperties().get_family()
        assert not any("Last" in family for family in families)

    def test_png_without_a_font_comes_with_a_legible_svg(self, fonts, tmp_path):
        with pytest.warns(UserWarning, match=r"look at .*map\.svg") as caught:
            shown = save_alignment(ALIGNMENT, tmp_path / "map.png", title="联系")
        assert len(caught) == 1
        assert shown == tmp_path / "map.svg"
        assert shown.read_text(encoding="utf-8") == alignment_svg(ALIGNMENT, title="联系")
        assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")

    def test_wrong_shapes(self, fonts):
        with pytest.raises(ValueError, match="shape"):
            plot_alignment(WEIGHTS, TARGET, SOURCE)

    def test_without_matplotlib(self, monkeypatch, tmp_path):
        real = builtins.__import__

        def no_matplotlib(name, *args, **kwargs):
            if name.split(".")[0] == "matplotlib":
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", no_matplotlib)
        with pytest.raises(InputError, match=r"pip install 'bahdanau-hf\[plot\]'"):
            plot_alignment(WEIGHTS, SOURCE, TARGET)
        with pytest.raises(InputError, match="matplotlib"):
            save_alignment(ALIGNMENT, tmp_path / "map.png")
        for suffix in ("svg", "html", "txt"):
            assert save_alignment(ALIGNMENT, tmp_path / f"map.{suffix}").stat().st_size > 100


class TestSave:
    def test_by_suffix(self, tmp_path):
        folder = tmp_path / "new" / "folder"
        expected = {
            "a.svg": alignment_svg(ALIGNMENT, title="联 & 系"),
            "A.HTML": alignment_html(ALIGNMENT, standalone=True, title="联 & 系"),
            "a.txt": alignment_text(ALIGNMENT),
        }
        for name, text in expected.items():
            path = save_alignment(ALIGNMENT, str(folder / name), title="联 & 系")
            assert path == folder / name
            assert path.read_text(encoding="utf-8") == text

    @pytest.mark.parametrize("name", ["map.pdf", "map", ".png"])
    def test_other_suffixes(self, tmp_path, name):
        with pytest.raises(InputError, match=r"must end in \.png, \.svg, \.html, \.txt"):
            save_alignment(ALIGNMENT, tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_unwritable(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"cannot write .*map\.svg"):
            save_alignment(ALIGNMENT, tmp_path / "file" / "map.svg")
        (tmp_path / "map.svg").mkdir()
        with pytest.raises(InputError, match=r"cannot write .*map\.svg"):
            save_alignment(ALIGNMENT, tmp_path / "map.svg")
