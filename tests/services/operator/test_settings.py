"""Settings of the operator's own."""

import pytest
from pydantic import ValidationError

from heliograph.operator.kube import selector
from heliograph.operator.settings import OperatorSettings


def test_labels_are_names_with_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_WATCH_LABELS", "environment=staging, example.com/team=a_b, empty=")
    labels = OperatorSettings().labels()
    assert labels == {"environment": "staging", "example.com/team": "a_b", "empty": ""}
    assert selector(labels) == "environment=staging,example.com/team=a_b,empty="
    assert selector({}) == ""


@pytest.mark.parametrize("given", ["environment", "=staging", "environment==staging", "a in (b)", "a!=b", "-a=b"])
def test_other_selectors_are_refused(given: str) -> None:
    with pytest.raises(ValidationError, match="must be name=value"):
        OperatorSettings(watch_labels=(given,))
