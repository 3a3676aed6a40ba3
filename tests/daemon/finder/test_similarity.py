"""Similar studies, from a real Catalogue and real vectors."""


import numpy as np
import pytest
from finder_archive import Archive, near
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_encoder import DIM, ToyEncoder, unit

from daemon.finder.errors import ExampleKeptOut, ExampleNotEncoded, ExampleUnknown, Loading, NoUsableIndex
from daemon.finder.examples import SimilarityQuery
from daemon.finder.scores import KeptScores, score_of
from daemon.finder.similarity import Similarity
from encoders.base import Basis
from storage.base import Generation, InstanceState
from storage.catalogue import open_catalogue
from storage.index.following import IndexSet, IndexSettings

AXES = np.eye(DIM, dtype=np.float32)


def search(archive, tmp_path, engine="exact", **options):
    indexes = IndexSet.open(archive.catalogue, archive.generation, tmp_path / "index", IndexSettings(engine, threads=1))
    return Similarity(archive.catalogue, indexes, archive.encoder, archive.encoder.score, **options)


def uids(answer):
    return [match.study_instance_uid for match in answer.matches]


def test_image_alone_finds_images_by_descending_score_without_the_query_study(archive, tmp_path):
    archive.commit(*(archive.image(f"1.{n}", vector=AXES[0] + n * AXES[1]) for n in range(5)))
    answer = search(archive, tmp_path).answer(SimilarityQuery(("1.0",)))
    assert uids(answer) == ["1.1", "1.2", "1.3", "1.4"]
    assert [match.rank for match in answer.matches] == [1, 2, 3, 4]
    assert [match.score for match in answer.matches] == sorted((match.score for match in answer.matches), reverse=True)
    assert {match.basis for match in answer.matches} == {Basis.IMAGE}
    assert answer.matches[0].sop_instance_uid == "1.1.1"
    assert answer.matches[0].cosine == pytest.approx(2**-0.5, abs=1e-5)
    assert answer.model_id == archive.encoder.model_id


def test_a_study_is_asked_for_by_the_mean_of_its_images_and_found_by_its_best_one(archive, tmp_path):
    archive.commit(
        archive.image("1.1", 1, AXES[0]), archive.image("1.1", 2, AXES[1]),
        archive.image("1.2", 1, AXES[2]), archive.image("1.2", 2, AXES[0] + 0.8 * AXES[1]),
        archive.image("1.3", 1, AXES[0]),
    )  # fmt: skip
    answer = search(archive, tmp_path).answer(SimilarityQuery(("1.1",)))
    assert uids(answer) == ["1.2", "1.3"]
    assert answer.matches[0].sop_instance_uid == "1.2.2"
    assert answer.matches[1].cosine == pytest.approx(2**-0.5, abs=1e-5)


def test_a_sop_instance_uid_asks_for_that_image_alone(archive, tmp_path):
    archive.commit(
        archive.image("1.1", 1, AXES[0]), archive.image("1.1", 2, AXES[1]),
        archive.image("1.2", 1, AXES[0]), archive.image("1.3", 1, AXES[1]),
    )  # fmt: skip
    assert uids(search(archive, tmp_path).answer(SimilarityQuery(("1.1.2",))))[0] == "1.3"
    assert uids(search(archive, tmp_path).answer(SimilarityQuery(("1.1.1",))))[0] == "1.2"


def test_several_examples_are_searched_by_the_mean_of_their_unit_vectors(archive, tmp_path):
    archive.commit(
        archive.image("1.1", vector=AXES[0]), archive.image("1.2", vector=AXES[1]),
        archive.image("1.3", vector=AXES[0] + AXES[1]), archive.image("1.4", vector=AXES[0] + 0.2 * AXES[1]),
    )  # fmt: skip
    answer = search(archive, tmp_path).answer(SimilarityQuery(("1.1", "1.2")))
    assert uids(answer) == ["1.3", "1.4"]
    assert answer.matches[0].cosine == pytest.approx(1, abs=1e-5)


def test_with_a_report_joint_vectors_are_compared_and_studies_without_one_by_image(archive, tmp_path):
    for n in range(4):
        archive.commit(archive.image(f"1.{n}", vector=near(AXES[0], 0.1, n)))
    for n in range(3):
        archive.commit(archive.report(f"1.{n}", near(AXES[1], 0.1, 10 + n)))
    answer = search(archive, tmp_path).answer(SimilarityQuery(("1.0",)))
    bases = {match.study_instance_uid: match.basis for match in answer.matches}
    assert bases == {"1.1": Basis.JOINT, "1.2": Basis.JOINT, "1.3": Basis.IMAGE}
    scores = [match.score for match in answer.matches]
    assert scores == sorted(scores, reverse=True)
    by_image = search(archive, tmp_path).answer(SimilarityQuery(("1.0",), basis=Basis.IMAGE))
    assert {match.basis for match in by_image.matches} == {Basis.IMAGE}


@pytest.mark.parametrize("rare_are_reported", [False, True])
def test_the_nearest_are_found_also_where_all_of_them_are_of_the_rarer_kind(archive, tmp_path, rare_are_reported):
    def commit(number, vector, reported):
        archive.commit(archive.image(f"1.{number}", vector=vector))
        if reported:
            archive.commit(archive.report(f"1.{number}", vector))

    commit(0, AXES[0], True)
    for n in range(1, 11):                          # the scores of joint vectors are the lower ones
        commit(n, AXES[0] + 0.02 * n * AXES[1], rare_are_reported)
    for n in range(11, 51):
        commit(n, AXES[0] + (20 + n) * AXES[2], not rare_are_reported)
    answer = search(archive, tmp_path).answer(SimilarityQuery(("1.0",), max_results=10))
    assert uids(answer) == [f"1.{n}" for n in range(1, 11)]
    assert {match.basis for match in answer.matches} == {Basis.JOINT if rare_are_reported else Basis.IMAGE}


def test_a_report_whose_images_are_not_here_finds_joint_vectors_and_images(archive, tmp_path):
    archive.commit(archive.report("1.0", AXES[0]))
    archive.commit(archive.image("1.1", vector=AXES[0]), archive.report("1.1", near(AXES[0], 0.1, 1)))
    archive.commit(archive.image("1.2", vector=near(AXES[0], 0.1, 2)))
    answer = search(archive, tmp_path).answer(SimilarityQuery(("1.0",)))
    assert {match.study_instance_uid: match.basis for match in answer.matches} == {
        "1.1": Basis.JOINT, "1.2": Basis.IMAGE,
    }  # fmt: skip


def test_basis_report_compares_reports_alone(archive, tmp_path):
    archive.commit(
        archive.image("1.1", vector=AXES[0]), archive.report("1.1", AXES[1]),
        archive.image("1.2", vector=AXES[0]), archive.report("1.2", AXES[2]),
        archive.image("1.3", vector=AXES[3]), archive.report("1.3", AXES[1]), archive.image("1.4", vector=AXES[0]),
    )  # fmt: skip
    answer = search(archive, tmp_path).answer(SimilarityQuery(("1.1",), basis=Basis.REPORT))
    assert uids(answer) == ["1.3", "1.2"]
    assert answer.matches[0].sop_instance_uid == "1.3.9"


def test_basis_report_of_a_study_without_report_is_refused(archive, tmp_path):
    archive.commit(archive.image("1.1", vector=AXES[0]), archive.image("1.2", vector=AXES[0]))
    archive.commit(archive.report("1.2", AXES[1]))
    with pytest.raises(ExampleNotEncoded):
        search(archive, tmp_path).answer(SimilarityQuery(("1.1",), basis=Basis.REPORT))


def test_text_finds_reports_and_the_images_of_studies_without_report(archive, tmp_path):
    effusion = archive.encoder.encode_text("pleural effusion")
    archive.commit(
        archive.image("1.1", vector=AXES[0]), archive.report("1.1", near(effusion, 0.05, 1)),
        archive.image("1.2", vector=near(effusion, 0.01, 2)), archive.image("1.3", vector=effusion),
        archive.report("1.3", AXES[5] - effusion),
    )  # fmt: skip
    similarity = search(archive, tmp_path)
    answer = similarity.answer(SimilarityQuery(text="pleural effusion"))
    assert {match.study_instance_uid: match.basis for match in answer.matches} == {
        "1.1": Basis.REPORT, "1.2": Basis.IMAGE, "1.3": Basis.REPORT
    }  # fmt: skip
    assert uids(answer)[-1] == "1.3"
    assert uids(similarity.answer(SimilarityQuery(text="pleural effusion", basis=Basis.IMAGE)))[0] == "1.3"
    assert uids(similarity.answer(SimilarityQuery(text="pleural effusion", basis=Basis.REPORT))) == ["1.1", "1.3"]


def test_example_and_text_are_searched_by_the_mean_of_both(archive, tmp_path):
    text = archive.encoder.encode_text("nodule")
    example = unit(AXES[0])
    archive.commit(
        archive.image("1.1", vector=example), archive.image("1.2", vector=example + text),
        archive.image("1.3", vector=example), archive.image("1.4", vector=text),
    )  # fmt: skip
    answer = search(archive, tmp_path).answer(SimilarityQuery(("1.1",), text="nodule"))
    assert uids(answer)[0] == "1.2"
    assert answer.matches[0].cosine == pytest.approx(1, abs=1e-5)


def test_a_vector_that_is_not_in_the_catalogue_can_ask(archive, tmp_path):
    archive.commit(*(archive.image(f"1.{n}", vector=AXES[n]) for n in range(3)))
    answer = search(archive, tmp_path).answer(SimilarityQuery(vectors={Basis.IMAGE: AXES[2:3]}))
    assert uids(answer)[0] == "1.2"
    assert len(answer.matches) == 3


def test_the_same_patient_is_left_out_unless_asked_for(archive, tmp_path):
    archive.commit(
        archive.image("1.1", vector=AXES[0], patient="P"), archive.image("1.2", vector=AXES[0], patient="P"),
        archive.image("1.3", vector=AXES[1], patient="Q"),
    )  # fmt: skip
    similarity = search(archive, tmp_path)
    assert uids(similarity.answer(SimilarityQuery(("1.1",)))) == ["1.3"]
    assert uids(similarity.answer(SimilarityQuery(("1.1",), exclude_same_patient=False))) == ["1.2", "1.3"]


def test_equal_scores_are_ordered_by_uid_also_where_the_list_is_cut(archive, tmp_path):
    names = [f"1.{n}" for n in range(10, 60)]
    archive.commit(archive.image("1.1", vector=AXES[0]))
    archive.commit(*(archive.image(name, vector=AXES[1]) for name in reversed(names)))
    assert uids(search(archive, tmp_path).answer(SimilarityQuery(("1.1",), max_results=5))) == sorted(names)[:5]


def test_minimum_score_and_findings_leave_studies_out(archive, tmp_path):
    archive.commit(
        archive.image("1.1", vector=AXES[0]),
        archive.image("1.2", vector=near(AXES[0], 0.01, 1), findings={"Edema": 0.9}),
        archive.image("1.3", vector=near(AXES[0], 0.01, 2), findings={"Edema": 0.9, "Pneumonia": 0.8}),
        archive.image("1.4", vector=-AXES[0], findings={"Edema": 0.9, "Pneumonia": 0.8}),
    )
    similarity = search(archive, tmp_path)
    both = SimilarityQuery(("1.1",), findings=("Edema", "Pneumonia"))
    assert uids(similarity.answer(both)) == ["1.3", "1.4"]
    assert set(uids(similarity.answer(SimilarityQuery(("1.1",), minimum_score=0.5)))) == {"1.2", "1.3"}


def test_twenty_results_by_default_and_the_own_cap_is_told(archive, tmp_path):
    archive.commit(*(archive.image(f"1.{n}", vector=near(AXES[0], 0.3, n)) for n in range(30)))
    similarity = search(archive, tmp_path, maximum_results=25)
    assert len(similarity.answer(SimilarityQuery(("1.0",))).matches) == 20
    assert similarity.answer(SimilarityQuery(("1.0",))).flags == ()
    cut = similarity.answer(SimilarityQuery(("1.0",), max_results=100))
    assert len(cut.matches) == 25
    assert cut.flags == ("TRUNCATED",)
    assert search(archive, tmp_path, maximum_results=29).answer(SimilarityQuery(("1.0",), max_results=99)).flags == ()


def test_an_index_that_lags_is_told(archive, tmp_path):
    archive.commit(archive.image("1.1", vector=AXES[0]), archive.image("1.2", vector=AXES[0]))
    assert search(archive, tmp_path, partial=lambda: True).answer(SimilarityQuery(("1.1",))).flags == ("INDEX PARTIAL",)


def test_examples_that_cannot_be_used_say_why(archive, tmp_path):
    archive.commit(archive.image("1.1", vector=AXES[0]), archive.image("1.5", state=InstanceState.GATED))
    newer = archive.encoder = ToyEncoder(name="newer")
    archive.generation = archive.catalogue.generation(newer.fingerprint, newer.model_id, newer.dim)
    archive.catalogue.activate(archive.generation.generation_id)
    with pytest.raises(NoUsableIndex):
        search(archive, tmp_path).answer(SimilarityQuery(vectors={Basis.IMAGE: AXES[:1]}))
    archive.commit(archive.image("1.2", vector=AXES[0]))
    similarity = search(archive, tmp_path)
    with pytest.raises(ExampleUnknown):
        similarity.answer(SimilarityQuery(("1.9",)))
    with pytest.raises(ExampleNotEncoded):
        similarity.answer(SimilarityQuery(("1.1",)))
    with pytest.raises(ExampleKeptOut, match="not a chest"):
        similarity.answer(SimilarityQuery(("1.5",)))


def test_text_and_files_wait_for_the_model_of_the_active_generation(archive, tmp_path):
    archive.commit(archive.image("1.1", vector=AXES[0]), archive.image("1.2", vector=AXES[1]))
    similarity = search(archive, tmp_path)
    for encoder in (None, ToyEncoder(name="newer")):
        similarity.encoder = encoder
        for query in (SimilarityQuery(text="nodule"), SimilarityQuery(vectors={Basis.IMAGE: AXES[:1]})):
            with pytest.raises(Loading):
                similarity.answer(query)
        assert uids(similarity.answer(SimilarityQuery(("1.1",)))) == ["1.2"]


def test_a_generation_is_scored_by_its_own_calibration_when_the_model_is_newer():
    knots = {"IMAGE/IMAGE": {"cosine": [-1.0, 1.0], "probability": [0.2, 0.6]}}
    old = Generation(1, "old", "old", DIM, knots, True)
    assert score_of(old, ToyEncoder())(np.zeros(1, np.float32), Basis.IMAGE, Basis.IMAGE) == pytest.approx(0.4)
    assert isinstance(score_of(old, None), KeptScores)
    mine = Generation(2, ToyEncoder().fingerprint, "toy", DIM, knots, True)
    assert score_of(mine, ToyEncoder())(np.zeros(1, np.float32), Basis.IMAGE, Basis.IMAGE) == pytest.approx(0.5)


def test_kept_knots_give_what_lies_between_them_and_nothing_beyond():
    knots = {"cosine": [-0.5, 0.0, 0.5], "probability": [0.1, 0.2, 0.8]}
    scores = KeptScores({"IMAGE/JOINT": knots})
    cosines = np.array([-1.5, -0.5, -0.25, 0.0, 0.25, 0.5, 1.5])
    expected = [0.1, 0.1, 0.15, 0.2, 0.5, 0.8, 0.8]
    assert scores.of(cosines, Basis.IMAGE, Basis.JOINT) == pytest.approx(expected, abs=1e-9)
    shaped = scores(cosines[None].astype(np.float32), Basis.IMAGE, Basis.JOINT)
    assert shaped == pytest.approx(np.array([expected]), abs=1e-6)


# ---------------------------------------------------------------------------------------------- against brute force


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """90 studies of 30 patients: one or two images, most with a report, sexes and dates of every kind."""
    folder = tmp_path_factory.mktemp("crowd")
    archive = Archive(open_catalogue(folder / "catalogue.db"))
    random = np.random.default_rng(5)
    facts = {}
    records = []
    for n in range(90):
        study, patient = f"1.{n + 1}", f"P{n % 30}"
        sex, date = "FMO"[n % 3], f"2026{n % 12 + 1:02d}10"
        images = [unit(random.normal(size=DIM)) for _ in range(n % 2 + 1)]
        report = unit(random.normal(size=DIM)) if n % 5 else None
        facts[study] = (patient, sex, date, images, report)
        more = {"patient": patient, "sex": sex, "date": date}
        records += [archive.image(study, i + 1, vector, **more) for i, vector in enumerate(images)]
        if report is not None:
            records.append(archive.report(study, report, **more))
    archive.commit(*records)
    engines = {engine: search(archive, folder / engine, engine) for engine in ("exact", "hnsw")}
    yield engines, facts, archive.encoder
    archive.catalogue.close()


def expected(facts, encoder, query, sexes, dates, exclude, basis):
    """Return (score, study) of every study that passes, by looking at all of them."""
    patient, _, _, images, report = facts[query]
    found = []
    for study, (other, sex, date, their_images, their_report) in facts.items():
        if study == query or (exclude and other == patient) or (sexes and sex not in sexes):
            continue
        if dates and not dates[0] <= date <= dates[1]:
            continue
        if basis is Basis.REPORT:
            if their_report is None:
                continue
            cosine = report @ their_report
        elif basis is Basis.JOINT and their_report is not None:
            cosine = encoder.fuse(np.stack(images), report) @ encoder.fuse(np.stack(their_images), their_report)
        else:
            cosine = max(unit(np.mean(images, axis=0)) @ one for one in their_images)
        entry = Basis.IMAGE if basis is Basis.JOINT and their_report is None else basis
        found.append((float(encoder.score(cosine, basis, entry)), study))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.integers(1, 90).map(lambda n: f"1.{n}"),
    sexes=st.sets(st.sampled_from("FMO")),
    months=st.none() | st.tuples(st.integers(1, 12), st.integers(1, 12)).map(sorted),
    exclude=st.booleans(),
    basis=st.sampled_from([Basis.IMAGE, Basis.REPORT, Basis.JOINT]),
    k=st.integers(1, 100),
    engine=st.sampled_from(["exact", "hnsw"]),
)
def test_filters_never_return_fewer_than_exist_nor_others_than_brute_force(
    crowd, query, sexes, months, exclude, basis, k, engine
):
    engines, facts, encoder = crowd
    if facts[query][4] is None and basis is not Basis.IMAGE:
        basis = Basis.IMAGE
    dates = (f"2026{months[0]:02d}01", f"2026{months[1]:02d}28") if months else None
    identifier = {"00100040": {"vr": "CS", "Value": sorted(sexes)}} if sexes else {}
    if dates:
        identifier["00080020"] = {"vr": "DA", "Value": [f"{dates[0]}-{dates[1]}"]}
    answer = engines[engine].answer(
        SimilarityQuery((query,), basis=basis, max_results=k, exclude_same_patient=exclude, identifier=identifier)
    )
    truth = expected(facts, encoder, query, sexes, dates, exclude, basis)
    assert len(answer.matches) == min(k, len(truth))
    assert uids(answer) == [study for _, study in truth[:k]]
    assert [match.score for match in answer.matches] == pytest.approx([score for score, _ in truth[:k]], abs=1e-4)
