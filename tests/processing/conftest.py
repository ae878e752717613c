import pytest

from tests.helpers.tiny_processors import HOSTS


@pytest.fixture(params=HOSTS)
def host(request):
    return request.param
