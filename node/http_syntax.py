"""What may stand in a request, whichever version of HTTP carries it: patterns for bytes, as their sources.

RFC 9110 5.5 (field value) and 5.6.2 (token), RFC 3986 3.3 and 3.4 (path and query). Each repetition ends at
an octet that it cannot match, so none of them is ever tried again at another length.
"""

from typing import Final

METHOD: Final = rb"[A-Z]{1,32}"
# The origin form: a path and a query, never a whole URL.
TARGET: Final = rb"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*+"
VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
# In lower case.
HOST: Final = rb"(?:[a-z0-9._~-]*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
LENGTH: Final = rb"[0-9]{1,15}"
