"""Label Studio's brush: bits as its own tools write and read them, tasks as they are exported and imported."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphcorrect.files import LabelMap, brush_results, decode_brush, encode_brush, read_brush_masks, write_brush_masks
from graphcorrect.files.label_studio import paint

MAP = LabelMap(("ground", "car", "tree"))
LABELS = torch.tensor([[0, 1, 1, 255], [2, 2, 1, 0], [2, 2, 2, 255]])
# 2 x 3 pixels, alpha painted in (0, 1), (1, 1), (1, 2): made with Label Studio's own converter, of a mask of 0 and 255
KNOWN = [0, 0, 0, 24, 57, 27, 252, 96, 17, 255, 206, 1, 63, 248]


def test_the_bits_are_those_of_label_studios_own_tools():
    painted = torch.tensor([[False, True, False], [False, True, True]])
    assert decode_brush(KNOWN, 2, 3).equal(painted)
    assert encode_brush(painted) == KNOWN


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_a_region_comes_back(height, width, scale, random):
    cells = torch.tensor([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    painted = cells.repeat_interleave(scale, 0).repeat_interleave(scale * scale, 1)
    assert decode_brush(encode_brush(painted), *painted.shape).equal(painted)


@pytest.mark.parametrize("size", [(1, 1), (128, 128), (129, 255), (300, 700)])
@pytest.mark.parametrize("value", [False, True])
def test_long_runs_come_back(size, value):
    """Lengths around 2**16, the longest of one run."""
    painted = torch.full(size, value)
    assert decode_brush(encode_brush(painted), *size).equal(painted)
    painted[-1, -1] = not value
    assert decode_brush(encode_brush(painted), *size).equal(painted)


def bits(*words):
    text = "".join(f"{value:0{width}b}" for value, width in words)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def test_values_one_by_one_of_another_width_are_read():
    """An editor may write them; the alpha of the first pixel is 9 of 12 bits, the second's 0."""
    values = [(value, 12) for value in (1, 2, 3, 9, 4, 5, 6, 0)]
    rle = bits((8, 32), (11, 5), (2, 4), (3, 4), (7, 4), (15, 4), (0, 1), (0, 2), (7, 3), *values)
    assert decode_brush(rle, 1, 2).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("rle", "size", "words"),
    [
        (KNOWN[:-3], (2, 3), "cut off"),
        (KNOWN, (3, 3), r"expected 36 values, 4 a pixel of \(3, 3\), got 24"),
        ([], (2, 3), "cut off"),
        ([300, 1], (2, 3), "integers from 0 to 255"),
        (["a"], (2, 3), "integers from 0 to 255"),
        ("0011", (2, 3), "integers from 0 to 255"),
        (None, (2, 3), "integers from 0 to 255"),
        (
            bits((4, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4), (1, 1), (1, 2), (9, 4), (0, 8)),
            (1, 1),
            "more than its 4",
        ),
        ([255] * 40, (32768, 32768), "at most 134,217,728 pixels"),
        (KNOWN, (0, 3), r"`\(height, width\)` to be"),
    ],
)
def test_other_bits_are_refused(rle, size, words):
    with pytest.raises(ValueError, match=words):
        decode_brush(rle, *size)


@pytest.mark.parametrize("painted", [torch.zeros(2, 2), torch.zeros(3, dtype=torch.bool)])
def test_a_region_is_a_bool_image(painted):
    with pytest.raises((TypeError, ValueError), match="`painted`"):
        encode_brush(painted)


def task(results, **more):
    return {"id": 7, "data": {"image": "/data/upload/3/ab%20c.jpg?d=1"}, "annotations": [{"result": results}], **more}


@pytest.fixture
def export(tmp_path):
    def write(*tasks):
        (tmp_path / "export.json").write_text(json.dumps(tasks))
        return tmp_path / "export.json"

    return write


def test_labels_come_back_from_a_task(export):
    found = read_brush_masks(export(task(brush_results(LABELS, MAP))), MAP)
    assert [mask.name for mask in found] == ["ab c"]
    assert found[0].labels.equal(LABELS)


def region(kind, number=None, **value):
    named = {} if number is None else {"id": number}
    return {"type": kind, "original_width": 4, "original_height": 3, "value": value, **named}


def test_regions_that_no_brush_has_painted_are_counted_in_one_warning(export):
    brush = brush_results(LABELS, MAP)
    polygon = region("polygonlabels", "p", points=[[0, 0], [50, 0], [50, 50]], polygonlabels=["car"])
    boxes = [
        region("rectangle", "r", x=1, y=2, width=3, height=4),
        region("labels", "r", x=1, y=2, width=3, height=4, labels=["car"]),  # of the tags Rectangle and Labels
        region("rectanglelabels", x=1, y=2, width=3, height=4, rectanglelabels=["car"]),
    ]
    said = [region("choices", choices=["day"]), {"type": "relation", "from_id": "a", "to_id": "b"}]
    written = region("textarea", brush[0]["id"], x=1, y=2, text=["of the brush's region"])
    path = export(task([*brush, polygon, *said, written]), task(boxes), task(said), task([polygon, *brush]))
    expected = r"export\.json: expected regions of the brush, left out 4 of other kinds \(2 polygon, 2 rectangle\)"
    with pytest.warns(UserWarning, match=expected) as caught:
        found = read_brush_masks(path, MAP)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [mask.labels.tolist() for mask in found] == [LABELS.tolist()] * 2


def test_polygons_of_earlier_annotations_are_not_missed(export):
    polygon = region("polygonlabels", "p", points=[[0, 0], [50, 0], [50, 50]], polygonlabels=["car"])
    results = brush_results(LABELS, MAP)
    both = {**task(results), "annotations": [{"result": [polygon]}, {"result": results}]}
    assert len(read_brush_masks(export(both), MAP)) == 1  # warnings are errors
    both["annotations"].reverse()  # now the last word, which no brush has
    with pytest.warns(UserWarning, match=r"left out 1 of other kinds \(1 polygon\)"):
        assert len(read_brush_masks(export(both), MAP)) == 1


def test_files_of_the_server_are_called_by_the_path_in_the_query(export):
    results = brush_results(LABELS, MAP)
    addresses = [
        "/data/local-files/?d=images/a.jpg",
        "/data/local-files/?d=b%20c%2Bd.jpg&x=1",
        "/data/local-files?d=e.png",
    ]
    tasks = [{**task(results), "data": {"image": address}} for address in addresses]
    tasks.append({**task(results), "data": {"image": "/data/local-files/"}})
    assert [mask.name for mask in read_brush_masks(export(*tasks), MAP)] == ["a", "b c+d", "e", "task-7"]


def test_predictions_that_are_ids_and_fields_without_content_are_no_regions(export, tmp_path):
    results = brush_results(LABELS, MAP)
    path = export(
        task(results, predictions=[12, 13]),
        task([], predictions=[12]),
        task([], annotations=None, predictions=[12, {"result": results}]),
        task(results, predictions=None),
        task(None),
    )
    found = read_brush_masks(path, MAP)
    assert [mask.labels.tolist() for mask in found] == [LABELS.tolist()] * 3
    write_brush_masks(tmp_path / "import.json", found, MAP)
    written = json.loads((tmp_path / "import.json").read_text())
    versions = [[each.get("model_version") for each in one["predictions"]] for one in written]
    assert versions == [["graphcorrect"], [None, "graphcorrect"], ["graphcorrect"]]


def test_a_background_is_named_and_left_out(export):
    results = brush_results(LABELS, MAP, leave_out=["ground"])
    assert [result["value"]["brushlabels"] for result in results] == [["car"], ["tree"]]
    found = read_brush_masks(export(task(results)), MAP, background="ground")
    assert found[0].labels.equal(LABELS.masked_fill(LABELS == 255, 0))


def test_later_regions_cover_earlier_ones():
    every = torch.zeros_like(LABELS)
    regions = brush_results(every + 1, MAP) + brush_results(torch.where(LABELS == 2, 2, 255), MAP)
    assert paint(regions, MAP).equal(torch.where(LABELS == 2, 2, 1))


def test_the_last_annotation_counts_and_predictions_where_there_is_none(export):
    one, other = brush_results(LABELS, MAP), brush_results(LABELS.flip(0), MAP)
    cancelled = {"result": one, "was_cancelled": True}
    path = export(
        task(one, annotations=[{"result": one}, {"result": other}, cancelled, {"result": []}]),
        task([], predictions=[{"result": other}]),
        task([{"type": "choices", "value": {"choices": ["day"]}}]),
        task([], annotations=[]),
    )
    assert [mask.labels.tolist() for mask in read_brush_masks(path, MAP)] == [LABELS.flip(0).tolist()] * 2


def test_brush_and_labels_as_two_tags(export):
    """A region then stands twice under one id: without a label, and with it."""
    labeled = brush_results(LABELS, MAP)
    bare = copy.deepcopy(labeled)
    for region, plain in zip(labeled, bare, strict=True):
        region["type"], region["value"]["labels"] = "labels", region["value"].pop("brushlabels")
        plain["type"] = "brush"
        del plain["value"]["brushlabels"]
    assert read_brush_masks(export(task(bare + labeled)), MAP)[0].labels.equal(LABELS)


def test_corrections_are_written_beside_what_people_did(export, tmp_path):
    results = brush_results(LABELS, MAP, from_name="classes", to_name="picture")
    before = read_brush_masks(export(task(results, predictions=[{"model_version": "other", "result": []}])), MAP)
    for _ in range(2):  # the second time in place of the first
        after = [mask._replace(labels=LABELS.flip(1)) for mask in before]
        write_brush_masks(tmp_path / "import.json", after, MAP)
        before = read_brush_masks(tmp_path / "import.json", MAP)
    written = json.loads((tmp_path / "import.json").read_text())[0]
    assert written["annotations"] == [{"result": results}]
    assert [each["model_version"] for each in written["predictions"]] == ["other", "graphcorrect"]
    regions = written["predictions"][1]["result"]
    assert paint(regions, MAP).equal(LABELS.flip(1))
    assert {(each["from_name"], each["to_name"], each["type"]) for each in regions} == {
        ("classes", "picture", "brushlabels")
    }


def spoiled(**changes):
    result = brush_results(LABELS, MAP)[0]
    value = changes.pop("value", {})
    return {**result, **changes, "value": {**result["value"], **value}}


def test_every_faulty_task_is_listed(export):
    results = brush_results(LABELS, MAP)
    short = {key: each for key, each in results[0].items() if key != "original_width"}
    path = export(
        {**task(results), "id": 1},
        {**task([spoiled(value={"brushlabels": ["boat"]})]), "id": 2},
        {**task([spoiled(original_height=4)]), "id": 3},
        {**task([spoiled(value={"rle": results[0]["value"]["rle"][:-4]})]), "id": 4},
        {**task([spoiled(value={"brushlabels": ["car", "tree"]})]), "id": 5},
        {**task([spoiled(image_rotation=90)]), "id": 6},
        {**task([spoiled(value={"format": "mask"})]), "id": 7},
        {**task([short]), "id": 8},
        {"id": 9, "annotations": ["none"]},
        {**task([*brush_results(LABELS[:2], MAP), *results]), "id": 10},
    )
    with pytest.raises(ValueError, match="Label Studio's tasks have 9 fault") as caught:
        read_brush_masks(path, MAP)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == [f"{path}, task {number}" for number in range(2, 11)]
    said = ["'boat'", "got 48", "cut off", "one label a region", "turned by 90", "'mask'", "'original_width'",
            "not as it is exported", "regions of one size"]  # fmt: skip
    assert all(word in line for word, line in zip(said, lines, strict=True)), lines


@pytest.mark.parametrize(
    ("content", "words"),
    [("{}", "not a list of tasks"), ("[1]", "not a list of tasks"), ("[", "tasks as Label Studio"), ("", "is empty")],
)
def test_what_is_no_export_is_named(tmp_path, content, words):
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(ValueError, match=rf"export\.json: .*{words}"):
        read_brush_masks(tmp_path / "export.json", MAP)


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (torch.tensor([[3]]), {}, "`labels` in"),
        (torch.tensor([1]), {}, "`labels` of shape"),
        (torch.tensor([[1.0]]), {}, "`labels` to hold integer"),
        (torch.tensor([[1]]), {"leave_out": ["boat"]}, "got 'boat'"),
    ],
)
def test_results_of_other_labels_are_refused(labels, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        brush_results(labels, MAP, **options)
