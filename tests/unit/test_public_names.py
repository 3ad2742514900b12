"""What `threadkeep` offers, and how little it loads before it is used."""

import subprocess
import sys

import pytest

import threadkeep


@pytest.mark.parametrize("name", threadkeep.__all__)
def test_a_public_name_is_where_it_is_said_to_be(name):
    assert getattr(threadkeep, name).__name__ == name
    assert name in dir(threadkeep)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'threadkeep' has no attribute 'nothing'"):
        threadkeep.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import threadkeep", {"celery", "redis", "boto3", "sqlalchemy", "pydantic"}),
        ("import threadkeep.cli", {"celery", "redis", "boto3", "sqlalchemy"}),
        ("from threadkeep import Threadkeep", {"boto3", "botocore", "sqlalchemy", "psycopg", "alembic"}),
        ("import threadkeep.tasks.app", {"boto3", "botocore", "sqlalchemy", "psycopg", "alembic"}),
    ],
)
def test_what_is_not_used_is_not_loaded(code, absent):
    told = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert absent.isdisjoint(told.stdout.split())
