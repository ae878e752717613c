import pytest

from tests.helpers.tiny_processors import HOSTS


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param
