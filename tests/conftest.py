from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers import bucket, postgres

# No test is about the clock: a drawn example may take as long as a busy machine takes.
settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, str]]:
    """A PostgreSQL and a bucket for all tests of this process; the environment in which a coordinator uses them.

    Every Plan has a schema and a prefix of its own there. What is tested is the order of writes: nothing is synced.
    """
    with postgres(durable=False) as url, bucket() as environment:
        yield {"TACIT_STORE": url, "TACIT_BLOBS": "s3://tacit/tests", **environment}
