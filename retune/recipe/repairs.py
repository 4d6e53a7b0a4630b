"""What the data gate can repair of a row before it is judged, if the recipe asks for it."""

# By name, in the order in which they are applied, whatever the recipe's: texts before turns, since a
# text that was cleaned may turn out empty, and turns that are dropped may leave neighbours of one role.
# The words go after "rows repaired by".
REPAIRS = {
    "fix_mojibake": "undoing a wrong encoding, where that makes sense of the text",
    "unescape": r"unescaping `\_`, `&amp;` and `\n` where they were escaped once too often, not in code",
    "normalise_unicode": "composing letters (NFC), dropping invisible characters within words, and one "
    "kind of line break",
    "strip_role_prefix": 'dropping a role\'s name, such as "Human:", at the beginning of its message',
    "drop_empty_turns": "dropping empty messages, an empty question or answer with what belongs to it",
    "merge_same_role": "joining neighbouring messages of one role, but tools', by a blank line",
    "trim_ends": "dropping answers before the first question and questions after the last answer",
}
