"""What the figures share."""

from __future__ import annotations

from cpt_nas.report import axes


def test_no_two_runs_look_alike():
    styles = axes.run_styles([str(i) for i in range(28)]).values()
    assert len({(s["color"], s["marker"]) for s in styles}) == 28
    assert len({(s["color"], s["linestyle"]) for s in styles}) == 28
