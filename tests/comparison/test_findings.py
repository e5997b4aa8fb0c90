"""What would mislead is refused with its reason, and compared all the same by force."""

import math
from dataclasses import replace

import numpy as np
import pytest
from bd_fixtures import codes, measured, published

from lictor.comparison.bd import compare
from lictor.comparison.curve import Curve, curve_from_rows

BPP, PSNR = [0.1, 0.2, 0.4, 0.8, 1.6], [28.0, 30, 32, 34, 36]


def with_row(curve: Curve, **change) -> Curve:
    return replace(curve, rows=(replace(curve.rows[0], **change), *curve.rows[1:]))


# What is wrong with the test, the code of the finding, a word of its text, and whether `force` gets
# a number all the same.
REFUSED = {
    "few": (published("t", BPP[:3], PSNR[:3]), "points", "3 points", True),
    "one": (published("t", BPP[:1], PSNR[:1]), "points", "1 point", False),
    "none": (published("t", [], []), "points", "0 points", False),
    "falls": (
        published("t", BPP, [28, 30, 29, 34, 36]),
        "monotone",
        r"point 3 \(0.4 bpp, 29\)",
        True,
    ),
    "flat": (published("t", BPP, [28, 30, 30, 34, 36]), "monotone", "point 3", True),
    "all falls": (published("t", BPP, PSNR[::-1]), "monotone", "and 1 more", False),
    "vertical": (
        published("t", [0.1, 0.2, 0.2, 0.8, 1.6], PSNR),
        "monotone",
        r"point 2 \(0.2 bpp, 30\)",
        True,
    ),
    "apart": (published("t", BPP, [48, 49, 50, 51, 52]), "overlap", "no quality in common", False),
    "nan": (published("t", BPP, [28, math.nan, 32, 34, 36]), "implausible", "point 2", True),
    "infinite": (published("t", BPP, [28, 30, 32, 34, math.inf]), "implausible", "inf", True),
    "too good": (published("t", BPP, [28, 30, 32, 34, 90]), "implausible", "not between", True),
    "too cheap": (published("t", [0.0003, *BPP[1:]], PSNR), "implausible", "0.0003", True),
    "dataset": (published("t", BPP, PSNR, dataset="clic"), "dataset", "clic", True),
    "average": (
        published("t", BPP, PSNR, aggregation="mean-mse"),
        "aggregation",
        "mean-mse",
        True,
    ),
    "metric": (
        replace(published("t", BPP, PSNR), columns={"bpp": np.array(BPP), "ms-ssim": np.ones(5)}),
        "metric",
        "no psnr, only ms-ssim",
        False,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_mislead_is_refused_with_its_reason(case):
    test, code, said, forceable = REFUSED[case]
    anchor = published("anchor", BPP, PSNR)
    result = compare(anchor, test)
    assert result.refused
    assert math.isnan(result.bd_rate)
    assert math.isnan(result.bd_quality)
    found = [finding for finding in result.findings if finding.level == "error"]
    assert [finding.code for finding in found] == [code]
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(str(found[0]))
    assert found[0].remedy

    forced = compare(anchor, test, force=True)
    assert forced.refused is not forceable
    assert math.isfinite(forced.bd_rate) is forceable
    if forceable:
        assert code in codes(forced)


PICTURES = {
    "other pictures": (measured("t", images=11), "images"),
    "another picture": (
        replace(
            measured("t"),
            rows=tuple(
                replace(row, sha256="other") if row.image == "03.png" else row
                for row in measured("t").rows
            ),
        ),
        "images",
    ),
    "another picture at one point": (with_row(measured("t"), sha256="other"), "rows"),
    "a row less": (replace(measured("t"), rows=measured("t").rows[1:]), "rows"),
    "a row twice": (
        replace(measured("t"), rows=(*measured("t").rows, measured("t").rows[0])),
        "rows",
    ),
    "a row of no point": (with_row(measured("t"), setting="q=9"), "rows"),
    "no rate": (with_row(measured("t"), bpp=0.0), "rows"),
    "a mended rate": (with_row(measured("t"), bpp=1.0), "rows"),
    "a mended quality": (with_row(measured("t"), psnr=50.0), "rows"),
    "part of kodak": (measured("t", dataset="Kodak"), "images"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_that_do_not_fit_are_refused(case):
    test, code = PICTURES[case]
    result = compare(measured("anchor"), test)
    assert result.refused
    assert code in codes(result, "error")
    forced = compare(measured("anchor"), test, force=True)
    assert math.isfinite(forced.bd_rate)
    assert code in codes(forced)


def test_forced_points_are_those_of_the_front():
    anchor = published("anchor", BPP, PSNR)
    good = published("good", [0.1, 0.2, 0.8, 1.6], [28.2, 30.1, 34.5, 36.3])
    bad = published("bad", [0.1, 0.2, 0.4, 0.8, 1.6, 2], [28.2, 30.1, 30.0, 34.5, 36.3, 36.2])
    forced = compare(anchor, bad, force=True)
    assert forced.num_points == (5, 4)
    assert forced.bd_rate == compare(anchor, good).bd_rate


def with_lossless(curve: Curve, *settings: str, image: str = "") -> Curve:
    """The curve with no error of the pictures, or of one, at more settings of higher rates."""
    rows = list(curve.rows)
    for place, setting in enumerate(settings, 1):
        for row in curve.at(curve.settings[-1]):
            better = {"mse": row.mse / 10**place, "psnr": row.psnr + 10 * place}
            changed = replace(row, setting=setting, bpp=(1 + place) * row.bpp, **better)
            if image in ("", row.image):
                changed = replace(changed, mse=0.0, psnr=math.inf, mse_y=0.0, psnr_y=math.inf)
            rows.append(changed)
    return curve_from_rows(curve.name, rows, dataset=curve.dataset)


def test_points_without_loss_are_left_out_of_numbers_and_said():
    anchor, test = measured("anchor"), measured("t", gain=0.5)
    plain = compare(anchor, test)
    for more in (
        with_lossless(test, "all"),
        with_lossless(test, "all", "more"),
        with_lossless(test, "one", image="03.png"),
    ):
        found = compare(anchor, more)
        assert codes(found) == ["lossless"]
        assert not codes(found, "error")
        assert more.settings[-1] in str(found.findings[0])
        assert (found.bd_rate, found.bd_quality) == (plain.bd_rate, plain.bd_quality)
        assert found.interval == plain.interval
        assert found.per_image == plain.per_image
        assert compare(more, anchor).bd_rate == compare(test, anchor).bd_rate
    # The mean of errors knows a point of which one picture has none.
    one = compare(anchor, with_lossless(test, "one", image="03.png"), aggregation="mean-mse")
    assert "lossless" not in codes(one)
    assert not codes(one, "error")
    assert one.interval is not None
    assert np.isfinite(one.interval.bd_rate).all()
    assert one.num_points == (5, 6)


def test_points_without_loss_do_not_stand_for_those_that_a_curve_needs():
    found = compare(measured("anchor"), with_lossless(measured("t", points=3), "x", "y"))
    assert codes(found, "error") == ["points"]
    assert math.isnan(found.bd_rate)


WARNED = {
    "narrow": (published("t", [0.1, 0.12, 0.14, 0.16], [28, 28.4, 28.8, 29.2]), "overlap"),
    "twice": (published("t", [*BPP, 1.6], [*PSNR, 36]), "twice"),
    "average": (published("t", BPP, PSNR, aggregation=""), "aggregation"),
    "no headers": (published("t", BPP, PSNR, counts_header=False), "header"),
    "headers?": (published("t", BPP, PSNR, counts_header=None), "header"),
    "pictures?": (published("t", BPP, PSNR, dataset=""), "dataset"),
    "errors": (published("t", BPP, PSNR, errors=("a.png: cannot read",)), "errors"),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_a_reader_should_know_is_said_and_the_number_stands(case):
    test, code = WARNED[case]
    result = compare(published("anchor", BPP, PSNR), test)
    assert codes(result) == [code]
    assert not result.refused
    assert math.isfinite(result.bd_rate)
    back = compare(test, published("anchor", BPP, PSNR))
    assert codes(back) == [code]


def test_points_may_come_in_any_order_and_twice():
    anchor = published("anchor", BPP, [28.1, 30, 32.3, 34, 36])
    order = [3, 0, 4, 1, 2, 0]
    mixed = published("t", [BPP[i] for i in order], [PSNR[i] for i in order])
    result, plain = compare(anchor, mixed), compare(anchor, published("t", BPP, PSNR))
    assert result.bd_rate == plain.bd_rate
    assert codes(result) == ["twice"]


def test_curves_without_headers_or_knowledge_on_both_sides():
    def header(*counts):
        curves = (
            published(n, BPP, PSNR, counts_header=c) for n, c in zip("ab", counts, strict=True)
        )
        return codes(compare(*curves))

    assert header(None, None) == header(True, True) == []
    assert header(False, False) == ["header", "header"]


def test_the_name_of_the_set_may_differ_in_case():
    a, b = (published(name, BPP, PSNR, dataset=name) for name in ("Kodak", "kodak "))
    assert compare(a, b).findings == ()


def test_curves_that_share_quality_but_no_rate_have_a_bd_rate():
    result = compare(published("a", BPP, PSNR), published("b", [r * 20 for r in BPP], PSNR))
    assert result.bd_rate == pytest.approx(1900)
    assert math.isnan(result.bd_quality)
    assert all(map(math.isnan, result.bpp_range))
    assert codes(result) == ["overlap"]
