"""What an evaluation says of a model that sees everything, of one that guesses, and of odd manifests."""

import pytest

from encoders.evaluation import EvaluationOptions, evaluate
from encoders.evaluation.subgroups import age_band
from encoders.training.manifest import ManifestError

QUICK = EvaluationOptions(baselines=False)


def pool(evaluation, source="big"):
    return next(each for each in evaluation.results["pools"] if each["source"] == source)


def lead(evaluation, system, source="big"):
    return pool(evaluation, source)["retrieval"]["B"]["ndcg@10"][system]


def test_a_model_that_sees_is_near_one_and_one_that_guesses_near_chance(judged):
    assert lead(judged, "seeing")["mean"] > 0.9
    assert abs(lead(judged, "blind")["mean"] - lead(judged, "random")["mean"]) < 0.1


def test_the_control_with_exchanged_images_falls_to_chance(judged):
    assert abs(lead(judged, "shuffled images")["mean"] - lead(judged, "random")["mean"]) < 0.1


def test_a_ranking_that_does_not_look_at_the_query_is_told_beside_one_that_does(judged):
    seeing = lead(judged, "seeing")["mean"]
    assert lead(judged, "answers of another query")["mean"] < 0.7 * seeing
    assert lead(judged, "seeing: sickest first")["mean"] < 0.9 * seeing
    variety = pool(judged)["retrieval"]["variety"]
    assert variety["seeing: sickest first"]["different"] <= 12      # ten, less a query's own patient
    assert 12 < variety["seeing"]["different"] <= variety["seeing"]["at_most"] == 60
    assert variety["answers of another query"]["different"] > 12


def test_every_figure_lies_in_its_interval_and_has_chance_beside_it(judged):
    for protocol in ("A", "B", "headings"):
        for name, systems in pool(judged)["retrieval"][protocol].items():
            assert "random" in systems, (protocol, name)
            for cell in systems.values():
                assert cell["low"] - 1e-9 <= cell["mean"] <= cell["high"] + 1e-9


def test_the_difference_to_the_reference_is_paired_by_query(judged):
    difference, low, high = lead(judged, "blind")["reference_minus_this"]
    assert difference == pytest.approx(lead(judged, "seeing")["mean"] - lead(judged, "blind")["mean"])
    assert 0 < low < difference < high


def test_studies_with_reports_are_judged_fused_and_by_their_reports_in_tables_of_their_own(squares, reader):
    class OnlyReads(reader):
        def encode_images(self, images):
            return reader(blind=True).encode_images(images)

    judged = evaluate(squares, {"reads": [OnlyReads()], "blind": [reader(blind=True)]}, QUICK)
    seen = lead(judged, "reads")["mean"]
    assert abs(seen - lead(judged, "random")["mean"]) < 0.1
    by_basis = pool(judged)["with_reports"]
    fused, read = (by_basis[basis]["B"]["ndcg@10"] for basis in ("JOINT", "REPORT"))
    assert read["reads"]["mean"] > 0.9
    assert seen + 0.1 < fused["reads"]["mean"] < read["reads"]["mean"]
    for table in (fused, read, by_basis["JOINT"]["headings"]["ndcg@10"]):
        assert set(table) == {"reads", "blind", "random"}
    assert read["blind"]["reference_minus_this"][1] > 0
    assert pool(judged, "small")["with_reports"] == {}              # it has no reports


def test_sources_are_never_mixed_and_views_are_judged_apart(judged):
    assert [(each["source"], each["view"], each["images"]) for each in judged.results["pools"]] == [
        ("big", "frontal", 60),
        ("small", "frontal", 40),
    ]


def test_a_query_never_finds_its_own_patient(rewrite, reader):
    def all_with_the_same_findings(row):
        return {**row, "patient_id": row["chexpert"]}

    path = rewrite(all_with_the_same_findings)
    gain = pool(evaluate(path, {"seeing": [reader()]}, QUICK))["retrieval"]["B"]["acg@10"]["seeing"]["mean"]
    assert gain <= 1  # two shared findings: only with the same two, that is oneself


def test_auc_average_precision_and_labels_are_those_of_the_model(judged):
    table = {row["finding"]: row for row in pool(judged)["findings"]["seeing"]}
    assert set(table) >= {"Cardiomegaly", "Edema", "Pneumothorax", "Pleural Effusion"}
    assert all(table[name]["auc"] == 1 and table[name]["ap"] == 1 for name in ("Cardiomegaly", "Edema"))
    assert pool(judged)["mean_auc"]["seeing"] == {"mean": 1, "low": 1, "high": 1}


def test_the_difference_in_mean_auc_is_paired_image_by_image(judged):
    blind = pool(judged)["mean_auc"]["blind"]
    assert blind["low"] < blind["mean"] < blind["high"] < 1
    difference, low, high = blind["reference_minus_this"]
    assert difference == pytest.approx(1 - blind["mean"])
    assert (low, high) == pytest.approx((1 - blind["high"], 1 - blind["low"]))  # the reference is right in every draw


def _figures(each, system):
    """Return every figure of a system in a pool, by where it stands."""
    retrieval = each["retrieval"]
    found = {
        (protocol, name): cells[system]["mean"]
        for protocol in ("A", "B", "headings")
        for name, cells in retrieval[protocol].items()
    }
    found |= {("by k", k): value for k, value in enumerate(retrieval["by_k"][system]["ndcg"])}
    found |= {("by finding", name): row["p@10"] for name, row in retrieval["by_finding"][system].items()}
    for direction in ("image_to_report", "report_to_image"):
        cells = each["cross_modal"][system][direction]
        found |= {(direction, name): cell["mean"] for name, cell in cells.items() if "@" in name}
        found[direction, "median"] = cells["median_rank"]
    found |= {("auc", row["finding"]): row["auc"] for row in each["findings"][system]}
    found |= {("ap", row["finding"]): row["ap"] for row in each["findings"][system]}
    found["mean auc"] = each["mean_auc"][system]["mean"]
    found |= {("ece", kind): each["calibration"][system][kind]["ece"] for kind in ("findings", "score")}
    return found


def test_the_figures_of_a_system_of_several_seeds_are_the_means_of_each_ones(squares, reader):
    seeds = [reader(f"blind {seed}", blind=True, seed=seed) for seed in (1, 2, 3)]
    every = {"seeing": [reader()], "three": seeds, **{str(each.seed): [each] for each in seeds}}
    judged = pool(evaluate(squares, every, QUICK))
    alone = [_figures(judged, str(each.seed)) for each in seeds]
    together = _figures(judged, "three")
    assert len(together) > 50
    for name, value in together.items():
        assert value == pytest.approx(sum(each[name] for each in alone) / 3), name
    assert len({each["B", "ndcg@10"] for each in alone}) == 3
    cells = judged["retrieval"]["B"]["ndcg@10"]
    cell = cells["three"]
    assert cell["low"] < cell["mean"] < cell["high"]
    assert cell["reference_minus_this"][0] == pytest.approx(cells["seeing"]["mean"] - cell["mean"])
    gain = judged["mean_auc"]["three"]["reference_minus_this"]
    assert gain[0] == pytest.approx(1 - together["mean auc"])
    assert gain[1] < gain[0] < gain[2]
    gain = judged["cross_modal"]["three"]["image_to_report"]["r@5"]["reference_minus_this"]
    assert gain[1] < gain[0] < gain[2]


def test_calibration_compares_what_was_said_with_what_was_so(judged):
    findings = pool(judged)["calibration"]["seeing"]["findings"]
    assert findings["observed"][0] == 0
    assert findings["observed"][-1] > 0.6
    assert findings["predicted"] == sorted(findings["predicted"])
    assert 0 < pool(judged)["calibration"]["seeing"]["score"]["ece"] < 1


def test_reports_are_found_from_images_and_images_from_reports(judged):
    both = pool(judged)["cross_modal"]["seeing"]
    assert both["images"] == both["reports"] == 60
    for direction in ("image_to_report", "report_to_image"):
        figure = both[direction]["r@10"]
        assert figure["mean"] > 2 * figure["chance"]
        assert figure["chance"] == pytest.approx(10 / 60, abs=0.05)
    assert pool(judged, "small")["cross_modal"] == {}


def test_across_modalities_each_figure_has_its_paired_difference_to_the_reference(judged):
    seeing, blind = (pool(judged)["cross_modal"][name] for name in ("seeing", "blind"))
    for direction in ("image_to_report", "report_to_image"):
        for name in ("r@1", "r@5", "r@10"):
            ours, theirs = seeing[direction][name], blind[direction][name]
            assert "reference_minus_this" not in ours
            difference, low, high = theirs["reference_minus_this"]
            assert difference == pytest.approx(ours["mean"] - theirs["mean"])
            assert low < difference < high


def test_the_reports_found_by_an_image_are_judged_by_the_findings_that_both_share(judged):
    ours, theirs = (pool(judged)["cross_modal"][name]["image_to_report"]["ndcg@10"] for name in ("seeing", "blind"))
    assert ours["queries"] == theirs["queries"] == 40               # every third study of 60 is normal
    assert theirs["chance"] + 0.3 < ours["mean"]
    assert theirs["mean"] == pytest.approx(theirs["chance"], abs=0.1)
    assert theirs["reference_minus_this"][1] > 0
    assert "ndcg@10" not in pool(judged)["cross_modal"]["seeing"]["report_to_image"]


def test_a_manifest_without_columns_of_reports_is_judged_without_them(rewrite, reader):
    def images_only(row):
        return {name: value for name, value in row.items() if name not in ("findings", "impression")}

    evaluation = evaluate(rewrite(images_only), {"seeing": [reader()]}, EvaluationOptions(baselines=False, limit=30))
    assert lead(evaluation, "seeing")["mean"] > 0.9
    assert pool(evaluation)["cross_modal"] == {}


def test_subgroups_cover_all_queries_once(judged):
    table = pool(judged)["subgroups"]
    whole = next(row for row in table if row["kind"] == "view")
    assert sum(row["images"] for row in table if row["kind"] == "sex") == whole["images"] == 60
    assert all(row["chance"] < row["ndcg@10"] for row in table)


def test_the_labeler_is_scored_where_there_are_reports_and_codes(judged):
    table = {row["finding"]: row for row in pool(judged)["labeler"]}
    assert table["Cardiomegaly"]["recall"] > 0.9
    assert pool(judged, "small")["labeler"] == []


def test_all_baselines_run_and_none_that_has_not_read_the_report_beats_the_seeing_model(squares, reader):
    evaluation = evaluate(squares, {"seeing": [reader()]}, EvaluationOptions(split="train", limit=25))
    names = [system["name"] for system in evaluation.results["systems"]]
    assert names[0] == "seeing"
    assert {"random", "shuffled images", "raw pixels", "TF-IDF of reports", "seeing: findings only"} <= set(names)
    for name in ("random", "shuffled images"):
        assert lead(evaluation, name)["mean"] < lead(evaluation, "raw pixels")["mean"]
    assert lead(evaluation, "seeing")["mean"] >= max(
        lead(evaluation, name)["mean"] for name in names if name != "TF-IDF of reports"
    )


def test_a_limit_and_a_split_choose_the_same_studies_each_time(squares, reader):
    options = EvaluationOptions(split="val", limit=24, baselines=False)
    chosen = [
        [sample.study_id for sample in evaluate(squares, {"m": [reader()]}, options).pools[0].pool.samples]
        for _ in range(2)
    ]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 24


def test_an_image_that_cannot_be_read_is_counted_and_left_out(rewrite, reader):
    def broken(row):
        return {**row, "image_path": "gone.png"} if row["study_id"] == "s1" else row

    evaluation = evaluate(rewrite(broken), {"seeing": [reader()]}, QUICK)
    assert evaluation.results["unreadable"] == 1
    assert pool(evaluation)["images"] == 59


def test_a_manifest_with_nothing_to_judge_is_refused_with_the_cure(rewrite, squares, reader):
    with pytest.raises(ManifestError, match="--split"):
        evaluate(squares, {"m": [reader()]}, EvaluationOptions(split="test"))
    with pytest.raises(ManifestError, match="column chexpert"):
        evaluate(rewrite(lambda row: {**row, "chexpert": ""}), {"m": [reader()]}, QUICK)
    with pytest.raises(ManifestError, match=r"no two images .* share an abnormal finding"):
        evaluate(rewrite(lambda row: {**row, "patient_id": "one"}), {"m": [reader()]}, QUICK)
    alone = rewrite(lambda row: {**row, "chexpert": "Edema" if row["study_id"] in ("s1", "s70") else "No Finding"})
    with pytest.raises(ManifestError, match=r"no two images .* share an abnormal finding"):
        evaluate(alone, {"m": [reader()]}, QUICK)
    with pytest.raises(ManifestError, match="at least 20"):
        evaluate(rewrite(lambda row: row if int(row["study_id"][1:]) < 10 else None), {"m": [reader()]}, QUICK)


@pytest.mark.parametrize(("age", "band"), [(0, "0-17"), (17.9, "0-17"), (18, "18-39"), (75, "75+"), (float("nan"), "")])
def test_ages_fall_into_bands(age, band):
    assert age_band(age) == band
