"""What a reader sees of an emergence: the terminal table and the timeline, against the data they show."""

import io
from itertools import pairwise

import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_hex

from stackheads.errors import ConfigError
from stackheads.labelling.thresholds import Thresholds
from stackheads.report.emergence import evenly_spaced, print_emergence
from stackheads.report.figures import COLOURS, hop_colours, save_figure, timeline
from stackheads.timeline.emergence import step_row
from stackheads.timeline.result import OTHER_ROLE, SYMBOLS, Emergence, accuracy_frame, heads_frame, steps_frame

STATUSES = {
    ("L0H0", 0, "value", "previous", None): ["pattern-only", "confirmed", "confirmed", "confirmed"],
    ("L1H0", 1, "query", "hop", 1): ["none", OTHER_ROLE, "confirmed", "confirmed"],
    ("L1H1", 1, "value", "hop", -1): ["confirmed", "confirmed", "causal-unclassified", "none"],
}
ACCURACY = {1: [0.1, 0.3, 0.95, 1.0], 2: [0.1, 0.1, 0.2, 0.5]}
NAMES = ["L0H0 @value previous", "L1H0 @query hop 1", "L1H1 @value hop -1"]


def made(repeat=1):
    """Four snapshots, the last of them `repeat` times: two heads emerge, one goes; hop 1 emerges, hop 2 never does."""
    steps = [250 * (number + 1) for number in range(3 + repeat)]
    heads, rows = [], []
    for hop, shares in ACCURACY.items():
        holds = [share >= 0.9 for share in [*shares, *[shares[-1]] * (repeat - 1)]]
        rows.append(
            {"what": f"hop {hop}", "kind": "hop", "destination": "query", "hop": hop} | step_row(holds, [], steps, 0.95)
        )
    for what, ((head, layer, destination, role, hop), statuses) in zip(NAMES, STATUSES.items(), strict=True):
        cell = {"head": head, "layer": layer, "destination": destination, "role": role, "hop": hop}
        seen = [*statuses, *[statuses[-1]] * (repeat - 1)]
        heads.append([cell | {"status": status, "pattern": 0.5, "effect": None} for status in seen])
        holds = [status == "confirmed" for status in seen]
        rows.append({"what": what, "kind": "head"} | cell | step_row(holds, [], steps, 0.95))
    return Emergence(
        model={"name": "made", "layers": 3, "heads": 4},
        task={"name": "by hand"},
        training={},
        seed=0,
        examples=64,
        bootstraps=0,
        thresholds=Thresholds(),
        versions={},
        accuracy=accuracy_frame(
            {step: {hop: shares[min(place, 3)] for hop, shares in ACCURACY.items()} for place, step in enumerate(steps)}
        ),
        heads=heads_frame([{"step": step} | row[place] for place, step in enumerate(steps) for row in heads]),
        steps=steps_frame(rows),
    )


def printed(found):
    out = io.StringIO()
    print_emergence(found, out)
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())
    return out.getvalue()


def test_the_table_says_what_emerges_when_and_what_goes():
    text = printed(made())
    lines = {line[:20].rstrip(): line[20:].split() for line in text.splitlines()}
    assert lines["L0H0 @value previous"] == ["◐●●●", "250–500"]
    assert lines["L1H0 @query hop 1"] == ["·×●●", "500–750"]
    assert lines["L1H1 @value hop -1"] == ["●●◒·", "gone", "at", "the", "end"]
    assert lines["hop 1"] == ["▁▃██", "500–750"]
    assert lines["hop 2"] == ["▁▁▂▅", "–"]
    assert "by 500: L0H0 @value previous\nby 750: hop 1, L1H0 @query hop 1\n" in text
    assert "never: hop 2" in text
    assert "come and go" in text
    assert "L1H1 @value hop -1 (250 to 500)" in " ".join(text.split())


def test_many_snapshots_still_fit():
    text = printed(made(repeat=97))
    assert "100 snapshots, steps 250 to 25,000, 41 of them shown" in text
    strip = next(line for line in text.splitlines() if line.startswith("L0H0")).split()[3]
    assert len(strip) == 41


@pytest.mark.parametrize(("number", "most"), [(1, 5), (5, 5), (6, 5), (100, 7), (1000, 58)])
def test_evenly_spaced_indices_keep_both_ends(number, most):
    shown = evenly_spaced(number, most)
    assert (shown[0], shown[-1], len(shown)) == (0, number - 1, min(number, most))
    gaps = {after - before for before, after in pairwise(shown)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_the_timeline_draws_the_data():
    found = made()
    top, bottom = timeline(found).axes
    lines = {line.get_label(): line for line in top.get_lines()}
    assert list(lines["hop 1, from 750"].get_ydata()) == ACCURACY[1]
    assert list(lines["hop 2, never"].get_xdata()) == found.snapshots
    marks = {(mark.get_xdata()[0], round(mark.get_ydata()[0])) for mark in bottom.get_lines() if mark.get_marker() == "v"}
    assert marks == {(500, 0), (750, 1)}
    assert [label.get_text() for label in bottom.get_yticklabels()] == NAMES
    bars = sorted(bottom.patches, key=lambda bar: (round(bar.get_y()), bar.get_x()))
    drawn = [to_hex(bar.get_facecolor()).upper() for bar in bars]
    assert drawn == [COLOURS[status] for statuses in STATUSES.values() for status in statuses]
    assert COLOURS.keys() == SYMBOLS.keys()


def test_colours_differ_also_in_grey():
    """Hops are told apart by lightness alone; so are the statuses that a reader must not confuse with confirmed."""
    hops = [
        sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), colour, strict=False)) for colour in hop_colours([1, 2, 3]).values()
    ]
    assert hops == sorted(hops)
    assert hops[-1] - hops[0] > 0.4
    assert len(set(COLOURS.values())) == len(COLOURS)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("c.pdf", b"%PDF")])
def test_figures_are_written_whole_and_again_the_same(tmp_path, name, start):
    save_figure(timeline(made()), tmp_path / "new" / name)
    content = (tmp_path / "new" / name).read_bytes()
    assert content.startswith(start)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]
    save_figure(timeline(made()), tmp_path / name)
    assert (tmp_path / name).read_bytes() == content


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"as \.png, \.svg or \.pdf, got .*a\.doc"):
        save_figure(timeline(made()), tmp_path / "a.doc")
    assert list(tmp_path.iterdir()) == []


def test_no_figure_is_left_with_pyplot(tmp_path):
    save_figure(timeline(made()), tmp_path / "a.svg")
    assert Gcf.get_all_fig_managers() == []
