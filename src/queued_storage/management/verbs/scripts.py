"""The scripts of ``completion`` for each shell, line by line.

The command is the second word of a line, or a later one: ``manage.py queued_storage`` or ``python
manage.py queued_storage``. All other lines are left to what completes them without the script.
"""

from collections.abc import Callable, Iterator
from shlex import quote

from .grammar import Grammar, Option

PROGRAMS = "manage.py ./manage.py django-admin python python3"

# Finds the verb: the first word behind the name of the command that is no option.
_BASH = """\
# Completion of "manage.py queued_storage" for bash. To use it, run
#   source <(python manage.py queued_storage completion bash)
_queued_storage() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local is_ours= verb= words= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ -z $is_ours ]]; then
            [[ ${COMP_WORDS[i]} == queued_storage ]] && is_ours=1
        elif [[ ${COMP_WORDS[i]} != -* ]]; then
            verb=${COMP_WORDS[i]}
            break
        fi
    done
    if [[ -z $is_ours ]]; then
        # Django's own script for bash, if it is used, too
        declare -F _django_completion > /dev/null && _django_completion
        return
    fi
    case "$verb $previous" in"""
_BASH_END = f"""\
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o bashdefault -o default -F _queued_storage {PROGRAMS}"""

_ZSH = """\
# Completion of "manage.py queued_storage" for zsh. To use it, run, after compinit,
#   source <(python manage.py queued_storage completion zsh)
_queued_storage() {
    local is_ours= verb= i
    local -a found
    for ((i = 2; i < CURRENT; i++)); do
        if [[ -z $is_ours ]]; then
            [[ $words[i] == queued_storage ]] && is_ours=1
        elif [[ $words[i] != -* ]]; then
            verb=$words[i]
            break
        fi
    done
    if [[ -z $is_ours ]]; then
        if [[ $service == python* ]] && (( $+functions[_python] )); then
            _python "$@"
        else
            _default
        fi
        return
    fi
    case "$verb $words[CURRENT-1]" in"""
_ZSH_END = f"""\
    esac
    _describe -o queued_storage found || _default
}}
compdef _queued_storage {PROGRAMS}"""

_FISH = """\
# Completion of "manage.py queued_storage" for fish. To use it, run
#   python manage.py queued_storage completion fish | source
function __queued_storage_verb
    set -l is_ours 0
    for word in (commandline -opc)
        if test $is_ours = 0
            test "$word" = queued_storage; and set is_ours 1
        else if not string match -q -- '-*' $word
            echo $word
            return 0
        end
    end
    test $is_ours = 1
end
function __queued_storage_is
    set -l verb (__queued_storage_verb); or return 1
    test "$verb" = "$argv[1]"
end"""


def bash(grammars: list[Grammar]) -> Iterator[str]:
    yield from _BASH.splitlines()
    yield _bash_case("' '*", [grammar.verb for grammar in grammars])
    for grammar, option in _with_values(grammars):
        yield _bash_case(_pattern(grammar, option), option.values)
    for grammar in grammars:
        yield _bash_case(f"{quote(grammar.verb)}' '*", [*_flags(grammar), *grammar.words])
    yield from _BASH_END.splitlines()


def _bash_case(pattern: str, words: list[str]) -> str:
    return f"        {pattern}) words={quote(' '.join(words))} ;;"


def zsh(grammars: list[Grammar]) -> Iterator[str]:
    yield from _ZSH.splitlines()
    yield _zsh_case("' '*", [_described(each.verb, each.help) for each in grammars])
    for grammar, option in _with_values(grammars):
        yield _zsh_case(_pattern(grammar, option), option.values)
    for grammar in grammars:
        flags = [
            _described(name, option.help) for option in grammar.options for name in option.names
        ]
        yield _zsh_case(f"{quote(grammar.verb)}' '*", [*flags, *grammar.words])
    yield from _ZSH_END.splitlines()


def _zsh_case(pattern: str, words: list[str]) -> str:
    return f"        ({pattern}) found=({' '.join(map(quote, words))}) ;;"


def _described(word: str, text: str) -> str:
    return f"{word}:{text}" if text else word


def fish(grammars: list[Grammar]) -> Iterator[str]:
    yield from _FISH.splitlines()
    yield f"for program in {PROGRAMS.replace('./manage.py ', '')}"
    for grammar in grammars:
        is_next = "'__queued_storage_is \"\"'"
        text = _quoted_for_fish(grammar.help)
        yield f"    complete -c $program -n {is_next} -f -a {grammar.verb} -d {text}"
        rule = f"    complete -c $program -n '__queued_storage_is {grammar.verb}'"
        for option in grammar.options:
            names = " ".join(_fish_name(name) for name in option.names)
            values = f" -x -a '{' '.join(option.values)}'" if option.values else ""
            value = values or (" -r" if option.takes_value else "")
            yield f"{rule} {names}{value} -d {_quoted_for_fish(option.help)}"
        if grammar.words:
            yield f"{rule} -a '{' '.join(grammar.words)}'"
    yield "end"


def _fish_name(name: str) -> str:
    return f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"


def _quoted_for_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _with_values(grammars: list[Grammar]) -> Iterator[tuple[Grammar, Option]]:
    """Yield the options that take a value, with their verbs."""
    for grammar in grammars:
        for option in grammar.options:
            if option.takes_value:
                yield grammar, option


def _pattern(grammar: Grammar, option: Option) -> str:
    return "|".join(quote(f"{grammar.verb} {name}") for name in option.names)


def _flags(grammar: Grammar) -> list[str]:
    return [name for option in grammar.options for name in option.names]


SCRIPTS: dict[str, Callable[[list[Grammar]], Iterator[str]]] = {
    "bash": bash,
    "fish": fish,
    "zsh": zsh,
}
