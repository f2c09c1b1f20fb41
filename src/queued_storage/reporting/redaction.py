"""Cuts from a text whatever is not known to be harmless: credentials, signatures, tokens.

Libraries print secrets in more spellings than a list can have. So a value that has a name stays
only if the name is known to be harmless, and a word stays unless it looks random.
"""

import re
from collections.abc import Iterator
from typing import Any, cast

CUT = "…"


class _Late:
    """A pattern that is compiled when it is first used.

    Together they would take a good part of the start of every process, and most processes have no
    error to report.
    """

    def __init__(self, pattern: str, flags: int) -> None:
        self._given = pattern, flags

    def __getattr__(self, name: str) -> Any:
        method = getattr(re.compile(*self._given), name)
        setattr(self, name, method)  # from now on it is found without this function
        return method


def _late(pattern: str, flags: int = 0) -> re.Pattern[str]:
    return cast(re.Pattern[str], _Late(pattern, flags))


# Names whose values may be shown, in lower case and without "-", "_" and "."
_HARMLESS_NAMES = """
acceptranges account accountname actual addr address alias allowed argument attempt attempts
availablebytes backend bucket bucketname bytes category charset class cmd code column command
connect connection connecttimeout container containername contentlength contentrange contenttype
count database date db dbname delayed description detail details directory domain encoding
endpoint endpointsuffix endpointurl errno error errorcode errordescription errormessage errors exc
exception exitcode expected family field file filename fileno files format found function got help
host hostname httpstatus httpstatuscode id index ip kind laddr lasterror lastmodified length level
limit line lineno local location maxattempts message method missing mode module msg name needed
number object offset op operation operationname other param parameter partnumber path phase pid
pool poolmaxsize port problem process project projectid proto protocol queue raddr range read
readtimeout reason redirect region regionname remote request resource response result retries
retry retryafter retryattempts returncode returned schema scheme seconds server service severity
side size source sqlstate stage start state status statuscode statustext step storage storageclass
suffix table tag target task text thread time timeout timestamp title total type unknown uploader
uri url urlmode used user username value version what
"""
_HARMLESS = frozenset(_HARMLESS_NAMES.split())
# Names whose values look random and are harmless
_IDS = _late(
    r"^(?:x?(?:amz|ms|goog|guploader)?(?:request|client|host|trace|correlation|upload|version)id"
    r"|xamzid2|etag|checksum\w*|crc\d+c?|crc64nvme|content(?:md5|crc\d+)|md5|sha1|sha256|sha512)$"
)
# Names in prose, before a colon, whose values are cut. Other words before a colon are prose.
_SECRETIVE = _late(
    r"^(?:(?:my|db|the|api|old|new|user|access|refresh|client|private|secret|session|master|auth)?"
    r"(?:pass|passw|passwd|password|passcode|passphrase|pwd|pw|pin|otp|psk|secret|secrets|token|"
    r"tokens|key|keys|auth|authorization|authentication|authn|authz|credential|credentials|creds|"
    r"cookie|cookies|session|sessionid|signature|sig|sas|jwt|bearer|nonce|salt|cert|pem|login))$"
)
# The same anywhere in a name that certainly is one
_SECRETIVE_PART = _late(
    r"pass|pwd|secret|token|key|auth|cred|cookie|sess|sig|sas|jwt|bearer|pin$|otp|private|code$"
)

_QUOTE = r"(?:\\*[\"'`]|&quot;|&\#3[49];)"
_STRUCTURE = _late(
    rf"""
      (?P<pem> -----BEGIN .*? (?: -----END [^-\n]{{0,80}} -{{0,5}} | \Z ) )
    | (?P<url> (?<![\w.+-]) [A-Za-z][\w.+-]{{0,40}} ://  [^\s"'`<>]* )
    | (?P<login> (?<![\w.%+-]) (?P<user> [\w.%+-]+ : ) [^\s@:"'`/]{{1,200}} @ (?= [\w\[] ) )
    | (?P<xml> < (?P<tag> [A-Za-z][\w.:-]{{0,60}} ) (?P<attributes> \s [^<>=]* = [^<>]* )? >
        (?P<content> [^<>]* ) (?= </ | \Z ) )
    | (?P<query> [?\#] (?= [^\s"'`<>?\#=]+ = ) [^\s"'`<>]* )
    | (?P<pair> (?<![\w.-]) -{{0,2}} (?P<name> [A-Za-z_][\w.-]* ) (?P<quote> {_QUOTE}? \]? )
        (?P<sign> \s* (?: => | := | ==? | -> | :(?!//) | %3[DdAa] ) \s*
                | (?<=["'`]) \s* , \s* (?= [bBuU]? \\*["'`] ) ) )
    | (?P<option> (?<![\w-]) --? (?P<long> [A-Za-z][\w-]* ) [ ]+ (?= [^\s-] ) )
    | (?P<word> (?i: (?<![\w-]) (?: basic | bearer | digest | negotiate | ntlm | passcode
        | passphrase | passwd | password | pwd | secret | token | api[ -]?key ) )
        (?: \s{{1,4}} (?: is | was | of ) )? \s{{1,4}} (?= (?P<after> [^\s,;]+ ) ) )
    """,
    re.X | re.S,
)
_QUOTED = _late(rf"[bBuUrRfF]{{0,2}}(?P<open>{_QUOTE})")
_TOKEN = _late(r"[^\s\"'`,;()\[\]{}<>|]+")
_LINE = _late(r"[^\r\n]*")
_UNQUOTED = _late(r"[^\"'`\r\n]*")
_PEEK = _late(r"[bBuU]?[\"'`]?([^\"'`\r\n]{0,120})")
_QUOTES = frozenset("\"'`")
_PROSE_WORD = _late(r"\(?[A-Z]?[^\W\d_A-Z]{1,20}[.:!?)]*")
_SENTENCE = _late(r"(?:[A-Z]?[a-z]{1,12}'?[a-z]{0,2} ){3}[a-z]")
_AFTER = _late(r"\s{1,4}[^\s,;]+")
_ODD = _late(r"(?=.*[A-Za-z])(?=.*\d)[^\s./:@]{6,100}")
_BARE = _late(r"[^\s;&\"'`<>]*")
SHORT_OPTIONS = frozenset({"u", "user", "p"})  # for "user:password", and for a password
_SCHEMES = frozenset({"basic", "bearer", "digest", "negotiate", "ntlm", "token"})
_ANSWERS = frozenset({"", "None", "True", "False", "null", "true", "false", "YES", "NO"})
_CLOSING = {"[": "]", "{": "}", "(": ")"}


def without_secrets(text: str, *, by_look: bool = True) -> str:
    """Return the text with secrets cut; takes time in proportion to its length.

    ``by_look=False`` keeps words that have no name and only look random, such as file names.
    """
    return "".join(_pieces(text, by_look))


def _pieces(text: str, by_look: bool) -> Iterator[str]:
    position = 0
    while found := _STRUCTURE.search(text, position):
        yield _prose(text[position : found.start()], by_look)
        kept, position = _structure(text, found, by_look)
        yield kept
        if position >= len(text):
            return
    yield _prose(text[position:], by_look)


def _structure(text: str, found: re.Match[str], by_look: bool) -> tuple[str, int]:
    """Return what is kept of a structure, and where the text continues."""
    end = found.end()
    if found["pem"]:
        return CUT, end
    if found["url"]:
        return _url(found["url"], by_look), end
    if found["login"]:
        return f"{found['user']}{CUT}@", end
    if found["xml"]:
        return _element(found)
    if found["query"]:
        return found[0][0] + CUT, end
    if found["option"]:
        is_short = found["long"] in SHORT_OPTIONS
        is_secret = is_short and not _is_trivial(_value(text, end, is_line=False)[1])
        is_secret = is_secret or _SECRETIVE_PART.search(_normal(found["long"])) is not None
        return _cut_value(text, found[0], end, is_line=False) if is_secret else (found[0], end)
    if found["word"]:
        is_prose = _PROSE_WORD.fullmatch(found["after"])  # such as "password authentication"
        return (found[0], end) if is_prose else _cut_value(text, found[0], end, is_line=False)
    return _pair(text, found)


def _element(found: re.Match[str]) -> tuple[str, int]:
    normal, content = _normal(found["tag"].rpartition(":")[2]), found["content"]
    opening = f"<{found['tag']}{' ' + CUT if found['attributes'] else ''}>"
    if _IDS.match(normal) and _looks_like_id(content):
        return opening + content, found.end()
    is_whole = found.end() < len(found.string)  # otherwise it may be prose
    if _may_be_shown(normal, content) or not (is_whole or _SECRETIVE_PART.search(normal)):
        return opening, found.start("content")
    return opening + CUT, found.end()


def _pair(text: str, found: re.Match[str]) -> tuple[str, int]:
    name, sign, end = found["name"], found["sign"].strip(), found.end()
    normal = _normal(name)
    if _IDS.match(normal):  # such as "crc32:1a2b3c4d"
        _open, value, _close, after = _value(text, end, is_line=False)
        return (text[found.start() : after], after) if _looks_like_id(value) else (found[0], end)
    is_line = sign in {":", "%3A", "%3a"} and not found["quote"]
    if sign == ",":  # ('Authorization', 'Basic …')
        is_kept = not _SECRETIVE_PART.search(normal) or normal in _HARMLESS
    elif is_line and not re.search("[-_]", name):  # a word of prose, or a key in YAML
        peek = _PEEK.match(text, end)
        value = peek[1].rstrip("),]}.") if peek else ""
        is_kept = value in _ANSWERS or not (_SECRETIVE.match(normal) or _is_odd(name, value))
    else:
        is_kept = _may_be_shown(normal, _value(text, end, is_line)[1])
        # "my-storage: local and remote are …" is no header
        is_kept = is_kept or (is_line and _is_prose_after(text, end, normal))
    if is_kept:
        return found[0], end
    before = text[found.start() - 1 : found.start()]
    if is_line and before not in _QUOTES and not _QUOTED.match(text, end):  # a header
        line = _LINE.match(text, end)
        return found[0] + CUT, line.end() if line else end
    return _cut_value(text, found[0], end, is_line)


def _is_prose_after(text: str, start: int, normal: str) -> bool:
    """Return whether a sentence of common words follows a name that is not known."""
    return not _SECRETIVE_PART.search(normal) and _SENTENCE.match(text, start) is not None


def _is_odd(name: str, value: str) -> bool:
    """Return whether all that a word of prose introduces is a mixture of letters and digits.

    In "Kennwort: hunter2" it may be a password, whatever the language calls it.
    """
    is_word = name[1:].islower() and _normal(name) not in _HARMLESS
    return is_word and _ODD.fullmatch(value.strip()) is not None


def _may_be_shown(normal: str, value: str) -> bool:
    if normal in _HARMLESS:
        return True
    return not _SECRETIVE_PART.search(normal) and _is_trivial(value.strip(" ).,"))


def _is_trivial(value: str) -> bool:
    """Return whether a value tells nothing, whatever its name is."""
    if value in _ANSWERS or _NUMBER.fullmatch(value):
        return True
    return _is_host(value) or (value.startswith("/") and _name(value) == value)


def _value(text: str, start: int, is_line: bool) -> tuple[str, str, str, int]:
    """Return how a value begins, the value, how it ends, and where the text continues."""
    if quoted := _QUOTED.match(text, start):
        quote = quoted["open"]
        end = _end_of_quoted(text, quoted.end(), quote)
        return quoted[0], text[quoted.end() : end], text[end : end + len(quote)], end + len(quote)
    if closing := _CLOSING.get(text[start : start + 1]):
        end = text.find(closing, start)
        end = len(text) if end < 0 else end
        return text[start], text[start + 1 : end], text[end : end + 1], end + 1
    bare = (_UNQUOTED if is_line else _BARE).match(text, start)
    value = bare[0] if bare else ""
    kept = value.rstrip("),]}.")
    return "", kept, "", start + len(kept)


def _end_of_quoted(text: str, start: int, quote: str) -> int:
    end = text.find(quote, start)
    while len(quote) == 1 and end > start and text[end - 1] == "\\":
        end = text.find(quote, end + 1)
    return len(text) if end < 0 else end


def _cut_value(text: str, before: str, start: int, is_line: bool) -> tuple[str, int]:
    opening, value, closing, end = _value(text, start, is_line)
    if not opening and value.lower() in _SCHEMES and (more := _AFTER.match(text, end)):
        end = more.end()  # Authorization=Bearer …
    return before + opening + (CUT if value else "") + closing, end


def _normal(name: str) -> str:
    return re.sub(r"[-_.]", "", name).lower()


# URLs


def _url(url: str, by_look: bool) -> str:
    """Cut what is before an "@", and the query and the fragment, which may be a signature."""
    scheme, _colon, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        _user, at, host = rest.rpartition("@") if _is_open(authority) else authority.rpartition("@")
        rest = CUT + at + (host if _is_open(authority) else host + rest[len(authority) :])
    elif _is_open(authority):
        # A password that contains a slash: what looks like a port has letters.
        rest = CUT + ("@" + rest.rpartition("@")[2] if "@" in rest else "")
    path, mark, _query = _split(rest)
    host, slash, names = path.partition("/")
    shown = _name(slash + names) if by_look and names else slash + names
    return f"{scheme}://{host}{shown}{mark}{CUT if mark else ''}"


def _is_open(authority: str) -> bool:
    """Return whether an authority goes on after a slash, since its port is not a number."""
    host = authority.rpartition("@")[2]
    port = host.rpartition("]")[2].partition(":")[2].rstrip(").,")
    return bool(port) and not port.isdigit()


def _split(text: str) -> tuple[str, str, str]:
    found = re.search(r"[?#]", text)
    if not found:
        return text, "", ""
    return text[: found.start()], found[0], text[found.end() :]


# Words

_NUMBER = _late(r"[-+]?\d[\d.,:%]*(?:[a-zA-Z]{1,2})?")
_HEX = _late(r"[0-9a-fA-F]{4,64}(?:-[0-9a-fA-F]{4,32})*")
_HOST = _late(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}(?::\d+)?")
_FILE = _late(r"[\w./~@%:-]*\.[A-Za-z][A-Za-z0-9]{0,4}")
_PATH = _late(r"/[\w./~@%:-]*")
_RELATIVE = _late(r"[\w.~@%-]+(?:/[\w.~@%-]+)+/?")
_PADDED = _late(r"[A-Za-z0-9+/_-]{8,}={1,2}")
_TIMESTAMP = _late(r"\d{4}-?\d\d-?\d\dT[\d:.]{6,15}Z?(?:[+-]\d\d:?\d\d)?")
_POINTER = _late(r"0x[0-9a-fA-F]{1,16}")
_KEY_ID = _late(r"(?:AKIA|ASIA|AROA|GOOG)[A-Z0-9]{8,}")
_WORD = _late(r"[^\W_]+")
_CAMEL = _late(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_RUNS = _late(r"[^\W\d_]+|\d+")
SHORT, LONG = 8, 16  # characters of a word: too few to be a secret, and too many to be a name
LONGEST = 40  # of a word


def _prose(text: str, by_look: bool) -> str:
    return _TOKEN.sub(lambda found: _token(found[0], by_look), text)


def _token(token: str, by_look: bool) -> str:
    core = token.rstrip(".:!?")
    if "&" in core and "=" in core:
        return CUT
    if not by_look or _is_plain(core):
        return token
    return _name(core) + token[len(core) :]


def _is_plain(token: str) -> bool:
    if _TIMESTAMP.fullmatch(token) or _is_host(token) or _POINTER.fullmatch(token):
        return True
    is_encoded = _PADDED.fullmatch(token) or _KEY_ID.search(token)
    return not is_encoded and all(map(_is_word, _WORD.findall(token)))


def _is_host(token: str) -> bool:
    return len(token) < 260 and _HOST.fullmatch(token) is not None


def _is_word(word: str) -> bool:
    """Return whether a run of letters and digits does not look random."""
    if len(word) < SHORT or not word.isascii():
        return len(word) <= LONGEST
    runs = _RUNS.findall(word)
    if len(runs) == 1:
        return len(word) <= LONGEST and (word.isdigit() or _is_cased_like_words(word))
    numbers = [run for run in runs if run.isdigit()]
    are_words = all(_is_cased_like_words(run) for run in runs if not run.isdigit())
    if len(runs) == 2:
        return len(word) <= LONGEST // 2 and are_words
    return len(runs) == 3 and are_words and (len(numbers) == 1 and len(numbers[0]) <= 2)


def _is_cased_like_words(word: str) -> bool:
    parts = _CAMEL.findall(word)
    return len(word) < SHORT or len(word) >= 3 * len(parts)


def _name(token: str) -> str:
    """Return a path or the name of a file with its random parts cut, and anything else cut."""
    is_name = _FILE.fullmatch(token) or _PATH.fullmatch(token) or _is_relative(token)
    if not is_name or "eyJ" in token:  # begins a JSON Web Token
        return CUT
    return "/".join(part if _is_part(part) else _cut_part(part) for part in token.split("/"))


def _is_relative(token: str) -> bool:
    if not _RELATIVE.fullmatch(token):
        return False
    parts = token.split("/")
    return any(len(part) > 1 and part.isalpha() and part.islower() for part in parts)


def _is_part(part: str) -> bool:
    stem = part.rpartition(".")[0] or part
    if _HEX.fullmatch(stem) and not (stem.isupper() and len(stem) > LONG):
        return True
    return all(len(word) < LONG or _is_word(word) for word in _WORD.findall(part))


def _cut_part(part: str) -> str:
    dot = part.rfind(".")
    return CUT + (part[dot:] if dot >= 0 and len(part) - dot <= 6 else "")


def _looks_like_id(value: str) -> bool:
    return len(value) <= 128 and re.fullmatch(r"[\w+/=:-]*", value) is not None
