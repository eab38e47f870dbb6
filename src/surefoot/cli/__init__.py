"""The command. Thin: it parses, calls, prints, and turns what happened into an exit code."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import sys
from collections.abc import Callable, Sequence

import surefoot
from surefoot import catalog
from surefoot.cli.about import bench, doctor, info, list_cards, tour
from surefoot.cli.finished import compare, verify, view
from surefoot.cli.run import Session, run
from surefoot.cli.say import FAILED, INTERRUPTED, OK, USAGE, UsageError, parser_for, printable, say_error

log = logging.getLogger("surefoot")
SHELLS = ("bash", "zsh", "fish")
__all__ = ["main", "printable"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    level = logging.WARNING if "--quiet" in arguments else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # argparse and tyro end this way
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else USAGE
    except (UsageError, catalog.UnknownCardError, FileExistsError, FileNotFoundError) as error:
        return say_error(error, USAGE)
    except KeyboardInterrupt:
        return say_error("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (ValueError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        log.debug("details", exc_info=error)
        return say_error(error, FAILED)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return OK if arguments else USAGE
    if arguments[0] == "--version":
        sys.stdout.write(f"surefoot {surefoot.__version__}\n")
        return OK
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
        raise UsageError(
            f"no command {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else "see surefoot --help")
        )
    return COMMANDS[name](rest)


def _help() -> str:
    rows = [
        (name, (function.__doc__ or "").splitlines()[0]) for name, function in COMMANDS.items() if name != "_complete"
    ]
    lines = "\n".join(f"  {name:<12}{text}" for name, text in rows)
    return f"""surefoot {surefoot.__version__}: optimisation that shows its evidence

usage: surefoot COMMAND [ARGUMENTS]     (surefoot COMMAND --help says more)

{lines}

exit codes: 0 finished / all confirmed, 1 failed / refuted, 2 usage, 3 some unchecked, 130 interrupted
"""


def completion(arguments: list[str]) -> int:
    """print the completion script for bash, zsh or fish"""
    parser = parser_for("completion", completion)
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(arguments).shell
    scripts = {
        "bash": '_surefoot() { local IFS=$\'\\n\'; COMPREPLY=($(compgen -W "$(surefoot _complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}")); }\ncomplete -o default -F _surefoot surefoot\n',
        "zsh": '#compdef surefoot\n_surefoot() { local -a found; found=(${(f)"$(surefoot _complete ${words[2,CURRENT]} 2>/dev/null)"}); compadd -a found; _files; }\ncompdef _surefoot surefoot\n',
        "fish": "complete -c surefoot -a '(surefoot _complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'\n",
    }
    sys.stdout.write(scripts[shell])
    return OK


def complete(words: list[str]) -> int:
    """Candidates for the last word, a line each; what the completion scripts call."""
    names = [alias for card in catalog.cards().values() for alias in (card.name, *card.aliases)]
    if len(words) <= 1:
        found = [name for name in COMMANDS if name != "_complete"]
    elif len(words) == 2 and words[0] in ("run", "info", "bench"):
        found = names
    elif words[0] == "run" and words[-1].startswith("-"):
        fields = [*dataclasses.fields(Session), *dataclasses.fields(catalog.find(words[1]).options)]
        found = ["--" + field.name.replace("_", "-") for field in fields]
    elif words[0] == "tour" and words[-2] == "--only":
        found = names
    elif words[0] == "completion":
        found = list(SHELLS)
    else:
        found = []
    sys.stdout.write("".join(f"{word}\n" for word in found if word.startswith(words[-1] if words else "")))
    return OK


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "list": list_cards, "info": info, "run": run, "verify": verify, "compare": compare, "view": view, "tour": tour, "bench": bench,
    "doctor": doctor, "completion": completion, "_complete": complete,
}  # fmt: skip
