"""THIRD_PARTY_NOTICES.md names every package that the project asks for, and a licence for each."""

from infra import notices


def test_every_package_is_there_with_its_licence():
    text = notices.NOTICES.read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    listed = {name: words for words, names in rows[1:] for name in names.split(", ")}
    assert listed.keys() == notices.packages(), "run `python -m infra.notices`"
    # torch states another licence with another build.
    stated = {name: notices.licence(name) for name in listed}
    assert {**listed, "torch": ""} == {**stated, "torch": ""}, "run `python -m infra.notices`"
