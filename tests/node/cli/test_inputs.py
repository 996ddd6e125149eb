"""What a user names on a command line."""

import pytest

from node.cli.inputs import parse_time
from node.errors import ConfigError


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "9" * 40, "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"]
)
def test_an_invalid_time_or_one_beyond_all_calendars_is_a_usage_error(text):
    with pytest.raises(ConfigError, match="neither Unix seconds nor an ISO 8601 time"):
        parse_time(text)
