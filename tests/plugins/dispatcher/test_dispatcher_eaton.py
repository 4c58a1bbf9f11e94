"""The dispatcher `eaton`: rows of a CSV file become devices with their metrics."""

import pytest
from pydantic import ValidationError

from karez.testing import build, entities


@pytest.fixture
def load(tmp_path):
    async def load(text, encoding="utf-8"):
        file = tmp_path / "points.csv"
        file.write_bytes(text.encode(encoding))
        return await entities(build("dispatcher", f"type: eaton\nconnector: c\ninterval: 1\nfile: {file}"))

    return load


async def test_the_metrics_of_a_device_are_one_entity(load):
    rows = "\ufeffdev_id, ma_id,note\nd1,m1,x\nd2,7,\nd1,m2,\nd1,m1,again\n\n007,m1,\n"
    assert await load(rows) == [
        {"device": "d1", "metrics": ["m1", "m2"]},
        {"device": "d2", "metrics": [7]},
        {"device": "007", "metrics": ["m1"]},
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no column `dev_id`"),
        ("dev_id,maid\n1,2\n", "is it `maid`"),
        ("dev_id,ma_id\n1,2\n,3\n", "csv:3: `dev_id` is empty"),
        ("dev_id,ma_id\n1\n", "csv:2: `ma_id` is empty"),
        ('dev_id,ma_id\n"1,2\n', "is no CSV"),
    ],
)
async def test_a_file_that_cannot_be_meant_says_what_is_wrong_and_where(load, text, word):
    with pytest.raises(ValueError, match=word):
        await load(text)


async def test_a_file_that_is_no_text_is_named(load):
    with pytest.raises(ValueError, match="UTF-8"):
        await load("dev_id,ma_id\n\u20ac,\u00e9\n", "utf-16")


def test_a_file_that_is_missing_is_refused():
    with pytest.raises(ValidationError, match="file"):
        build("dispatcher", "type: eaton\nconnector: c\ninterval: 1\nfile: missing.csv")
