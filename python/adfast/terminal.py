"""What comes out of a file, on its way to a terminal."""


def printable(text: str) -> str:
    """Write control characters out: a name in a plan must not move the cursor or set the title.

    Line feeds and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )
