"""Words that name a direction, under which a clip must not be mirrored or shown backwards."""

import re
from collections.abc import Iterable, Sequence

from fastvgan.errors import UserError

_SIDES = """
    left right leftward leftwards rightward rightwards clockwise anticlockwise counterclockwise east west eastward
    eastwards westward westwards
""".split()
_COURSES = """
    up down upward upwards downward downwards upstairs downstairs forward forwards forth back backward backwards away
    toward towards out into onto off north south northward northwards southward southwards
    open opens opened opening close closes closed closing enter enters entered entering exit exits exited exiting
    leave leaves leaving left arrive arrives arrived arriving approach approaches approached approaching
    push pushes pushed pushing pull pulls pulled pulling lift lifts lifted lifting lower lowers lowered lowering
    raise raises raised raising rise rises rose rising fall falls fell falling drop drops dropped dropping
    climb climbs climbed climbing ascend ascends ascended ascending descend descends descended descending
    start starts started starting stop stops stopped stopping begin begins began beginning
    appear appears appeared appearing disappear disappears disappeared disappearing
    grow grows grew growing shrink shrinks shrank shrinking accelerate accelerates accelerated accelerating
    first before after then
""".split()
_WORDS = {"--mirror": frozenset(_SIDES), "--reverse": frozenset([*_SIDES, *_COURSES])}
# Both ways in turn, which neither change affects, and words that name no direction beside others.
_BOTH_WAYS = """
    left_and_right right_and_left up_and_down down_and_up back_and_forth forth_and_back in_and_out out_and_in
    forward_and_backward forwards_and_backwards backward_and_forward backwards_and_forwards to_and_fro
    close_up close_ups open_and_close opens_and_closes opening_and_closing out_of_focus
""".split()
_PHRASES = re.compile("|".join(rf"\b{phrase.replace('_', '[ -]')}\b" for phrase in _BOTH_WAYS))
# "in" names a direction where nothing follows that something is in: "zooms in", "walks in from the right".
_IN = re.compile(r"\bin(?=\s*(?:$|[.,;!]|\b(?:from|to|on|and|then|through|toward|towards|again)\b))")
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # within names such as OpenDoor
_WORD = re.compile(r"\w+")


def find_direction(text: str, flag: str) -> str | None:
    """Find the first word of a caption or class name that speaks of a direction.

    Args:
        text: the caption or name.
        flag: "--mirror", for words such as "left", or "--reverse", also for words such as "up" and "opening".

    Returns:
        The word in lower case, or None.
    """
    text = _PHRASES.sub(" ", _CAPITAL.sub(" ", text).replace("_", " ").lower())
    found = [match for match in _WORD.finditer(text) if match[0] in _WORDS[flag]]
    if flag == "--reverse":
        found += _IN.finditer(text)
    return min(found, key=lambda match: match.start())[0] if found else None


def refuse_directions(flags: Iterable[str], captions: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse to mirror or to reverse clips whose captions or class names speak of a direction.

    Args:
        flags: of "--mirror" and "--reverse", those in use.
        captions: those that the model is conditioned on.
        classes: those that the model is conditioned on.

    Raises:
        UserError: one of them speaks of a direction.
    """
    for flag in flags:
        for kind, texts in (("caption", captions), ("class", classes)):
            found = [(text, word) for text in texts if (word := find_direction(text, flag))]
            if not found:
                continue
            text, word = found[0]
            more = f" (as do {len(found) - 1:,} more)" if len(found) > 1 else ""
            change = "mirrored" if flag == "--mirror" else "reversed"
            raise UserError(
                f"{flag}: the {kind} {_shorten(text)!r} names a direction, {word!r}{more}, which a {change} clip does "
                f"not show; leave {flag} out, or reword the {kind}"
            )


def _shorten(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"
