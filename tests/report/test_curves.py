"""Curves: what a curves.csv says, drawn as SVG in the page's colours, the same bytes each time."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from genxfer.report.curves import Curves, Line, draw_curves, read_curves

CURVES = Curves((1000, 2000, 3000), {"D/real": (0.5, 0.25, 0.125), "D/r1": (0.1, None, 0.2)})


def test_a_curve_file_is_read_with_its_gaps(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text("images_seen,D/real,D/r1\n1000,0.5,0.1\n2000,0.25,\n3000,0.125,0.2\n")
    assert read_curves(tmp_path / "curves.csv") == CURVES


def test_an_empty_curve_file_has_no_terms(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text("")
    assert read_curves(tmp_path / "curves.csv") == Curves((), {})


def test_a_curve_file_with_words_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text("images_seen,D/real\n1000,high\n")
    with pytest.raises(ValueError, match="high"):
        read_curves(tmp_path / "curves.csv")


def test_each_term_is_one_figure_with_a_line_for_each_stage_that_has_it() -> None:
    other = Curves((1000, 2000), {"D/real": (0.6, 0.5), "extra": (1.0, 2.0)})
    figures = draw_curves({"finetune": Line(CURVES, "var(--transferred)"), "baseline": Line(other, "var(--scratch)")})
    assert list(figures) == ["D/real", "D/r1", "extra"]
    for term, colours in {"D/real": 2, "D/r1": 1, "extra": 1}.items():
        ElementTree.fromstring(figures[term])
        drawn = {colour for colour in ("var(--transferred)", "var(--scratch)") if _line(figures[term], colour)}
        assert len(drawn) == colours, term


def test_a_gap_in_a_curve_is_bridged() -> None:
    path = _line(draw_curves({"finetune": Line(CURVES, "var(--transferred)")})["D/r1"], "var(--transferred)")
    assert path.count("L") == 1  # from the first point straight to the third


def test_the_only_point_of_a_short_run_is_a_dot() -> None:
    short = Curves((500,), {"D/real": (0.5,)})
    lines = {"finetune": Line(short, "var(--transferred)"), "baseline": Line(CURVES, "var(--scratch)")}
    svg = draw_curves(lines)["D/real"]
    assert "fill: var(--transferred)" in svg
    assert "fill: var(--scratch)" not in svg
    assert "#0102" not in svg


def test_figures_can_stand_on_one_page_and_are_the_same_each_time() -> None:
    lines = {"finetune": Line(CURVES, "var(--transferred)")}
    first, again = draw_curves(lines), draw_curves(lines)
    assert first == again
    ids = [name for svg in first.values() for name in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in first.values():
        assert "#0102" not in svg  # every stand-in has become a colour of the page
        assert "font-family" not in svg
        assert not re.search(r"<svg[^>]* (width|height)=", svg)
        # A clip path that names nothing would hide the line.
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(re.findall(r'\bid="([^"]+)"', svg))


def _line(svg: str, colour: str) -> str:
    """The path data drawn in `colour`, empty when there is none."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="[^"]*' + re.escape(f"stroke: {colour}"), svg)
    return "".join(path for path in paths if "L" in path)
