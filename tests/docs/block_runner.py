"""Runs the Python blocks of a page, which come as lines of JSON from stdin, in one namespace."""

import json
import linecache
import os
import sys
import traceback


def main() -> None:
    """Answer each block with one line of JSON: its traceback, or an empty text."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what blocks print is no answer
    sys.path[0] = ""  # modules of the page's folder
    names = {"__name__": "__main__"}
    for line in sys.stdin:
        block = json.loads(line)
        text, place = block["text"], block["place"]
        linecache.cache[place] = len(text), None, text.splitlines(keepends=True), place  # for inspect and tracebacks
        failure = ""
        try:
            exec(compile(text, place, "exec"), names)
        except BaseException:
            failure = traceback.format_exc()
        answers.write(json.dumps({"failure": failure}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
