"""What a test does to threads through their sessions and tasks, and asks about them."""

import pytest

from tests.waiting import until
from threadkeep.tasks.conf import MAINTENANCE


def user(text):
    return {"role": "user", "content": text}


def tuned(**changes):
    """Runs a test with these settings changed."""
    return pytest.mark.parametrize("tuned", [changes], ids=["-".join(changes)])


def leave_behind(keep, text, thread_id=None):
    """A thread that somebody wrote one message into and left. With an id of its own, no worker need be asked."""
    with keep.new(thread_id) as session:
        session.append(user(text))
    return session


def is_archived(keep, thread_id):
    stat = keep.stat(thread_id)
    return stat.tier == "cold" or stat.archived_rev == stat.rev


def sweep(app):
    app.send_task("threadkeep.sweep", kwargs={"force": True}, queue=MAINTENANCE)


def assert_whole(keep, thread_id, text):
    """What the archive gives back is what was written, once."""
    keep.flush(thread_id, wait=30)
    until(lambda: not keep.stat(thread_id).cached)
    assert keep.read(thread_id).messages == [user(text)]


def archives(raw_bucket, settings):
    """The keys of this test's objects."""
    found = raw_bucket.list_objects_v2(Bucket=settings.s3_bucket, Prefix=settings.s3_prefix)
    return [item["Key"] for item in found.get("Contents", [])]
