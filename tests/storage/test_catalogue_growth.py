"""What is asked or stored of one study costs the same however many others there are."""

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

SMALL, LARGE = 10, 130
#: Steps of SQLite's virtual machine between two calls of the counter.
EVERY = 10


class Steps:
    """Counts what SQLite does for a call."""

    def __init__(self):
        self.count = 0

    def watch(self, connection):
        connection.connection.driver_connection.set_progress_handler(self.one_more, EVERY)

    def one_more(self):
        self.count += 1

    def of(self, call):
        self.count = 0
        call()
        return self.count * EVERY


@pytest.fixture
def steps():
    counter = Steps()
    event.listen(Engine, "begin", counter.watch)
    yield counter
    event.remove(Engine, "begin", counter.watch)


def study(archive, number):
    who = {"PatientID": f"P{number}", "AccessionNumber": f"A{number}"}
    findings = {"Edema": 0.9, "Fracture": 0.7, "Pneumonia": 0.8}
    return [
        archive.image(f"1.{number}", attributes=who, findings=findings),
        archive.report(f"1.{number}", attributes=who, found={"Edema": 1.0, "Fracture": 1.0}),
    ]


def costs(archive, steps, number):
    """Return the steps of each question about study 1.3, and of storing study `number`."""
    catalogue, generation_id = archive.catalogue, archive.generation.generation_id
    series, image = "1.3.68", "1.3.1.1"
    return {
        "example study": steps.of(lambda: catalogue.example_rows(generation_id, "1.3")),
        "example series": steps.of(lambda: catalogue.example_rows(generation_id, series)),
        "example image": steps.of(lambda: catalogue.example_rows(generation_id, image)),
        "example state": steps.of(lambda: catalogue.example_state(series)),
        "study of": steps.of(lambda: catalogue.study_of(series)),
        "studies": steps.of(lambda: catalogue.studies(["1.3", "1.4", "1.5"])),
        "find": steps.of(lambda: catalogue.find("STUDY", {"0020000D": {"vr": "UI", "Value": ["1.3"]}}, 10)),
        "rendition": steps.of(lambda: catalogue.rendition_of("1.3")),
        "commit": steps.of(lambda: archive.commit(*study(archive, number))),
    }


def test_no_question_about_one_study_and_no_commit_reads_the_rest_of_the_archive(archive, steps):
    archive.commit(*(record for number in range(SMALL) for record in study(archive, number)))
    before = costs(archive, steps, SMALL)
    archive.commit(*(record for number in range(SMALL + 1, LARGE) for record in study(archive, number)))
    after = costs(archive, steps, LARGE)
    grown = {name: (before[name], after[name]) for name in before if after[name] > 1.5 * before[name] + 2 * EVERY}
    assert not grown
    assert after["commit"] > 0
