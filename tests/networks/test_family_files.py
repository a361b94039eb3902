"""Family files: errors in them, and changes under the same name."""

from pathlib import Path

import pytest
from refusals import refuses

from deploykit.bench import measure_network as measure
from deploykit.networks.families.registry import find_family
from deploykit.networks.member import choose_member
from deploykit.planning.fit.fit import fit_phi
from deploykit.planning.search.scorer import Scorer
from deploykit.reporting.study.study import run_study

DOCS = Path(__file__).parents[2] / "docs" / "families.md"
CODE = DOCS.read_text("utf-8").partition("```python\n")[2].partition("```")[0]
OTHER = CODE.replace("16, 32, 64, 128, 256", "16, 32, 64, 128, 200")


def test_a_changed_family_file_is_measured_again(tiny, monkeypatch):
    for name, value in (("MIN_SECONDS", 0.01), ("MIN_CALLS", 10), ("MAX_EXTRA_SECONDS", 0.0)):
        monkeypatch.setattr(measure, name, value)
    fit_phi("cpu", max_latency_ms=1000, family=tiny, phi_step=7)
    before = set(Path("records").glob("*.json"))
    fit_phi("cpu", max_latency_ms=1000, family=tiny, phi_step=7)
    assert set(Path("records").glob("*.json")) == before
    Path(tiny).write_text(OTHER)
    fit_phi("cpu", max_latency_ms=1000, family=tiny, phi_step=7)
    assert len(set(Path("records").glob("*.json")) - before) == len(before)


def test_a_changed_family_file_is_studied_again(tiny):
    options = {
        "gpu": "cpu",
        "family": tiny,
        "phis": (0,),
        "precisions": ("fp32",),
        "batches": (1,),
        "axes": (),
    }
    assert len(run_study("st", **options, seconds=0.1).written) == 3
    assert run_study("st", **options, seconds=0.1).written == ()
    Path(tiny).write_text(OTHER)
    assert len(run_study("st", **options, seconds=0.1).written) == 3


def test_a_changed_family_file_is_scored_again(tiny):
    scorer = Scorer("sh -c 'echo 1'", Path("scores"))
    member = choose_member(find_family(tiny))
    assert [score.value for score in scorer.score_members([member])] == [1.0]
    assert scorer.find_score(member) is not None
    Path(tiny).write_text(OTHER)
    assert scorer.find_score(choose_member(find_family(tiny))) is None


@pytest.mark.parametrize(
    ("old", "new", "about"),
    [
        ('"fc", num_classes', '"fc", nope', "NameError: name 'nope' is not defined"),
        ('net.global_average_pool("pool")', "pass", "2 x 2 map"),
    ],
)
def test_a_family_file_that_fails_is_refused_by_name(tiny, old, new, about):
    Path(tiny).write_text(CODE.replace(old, new))
    with refuses("family-file-invalid") as caught:
        find_family(tiny)
    assert "tiny.py" in caught.value.problem
    assert about in caught.value.problem
