"""Texts that were decoded by the wrong table, beyond what ftfy judges: UTF-8 read as cp1251, MacRoman,
cp437, cp850, KOI8-R, GBK or Shift-JIS, cp1251 read as Latin-1, and accented letters lost to question
marks.

Each pattern holds sequences that the language itself does not: the two bytes of one letter, again
and again, or between two letters. All of them are linear.
"""

from typing import TYPE_CHECKING

from expectations.data.chinese_tables import LATIN

if TYPE_CHECKING:
    import polars as pl

# What the bytes 0x80 to 0xBF, the rest of a letter in UTF-8, look like in these tables.
_CP1251 = "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—™љ›њќћџ\u00a0ЎўЈ¤Ґ¦§Ё©Є«¬\u00ad®Ї°±Ііґµ¶·ё№є»јЅѕї\u0098"
_MAC = "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨ÆØ¥µ∂∑∏∫ªºΩæø"
_DOS = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»╡╢╖╕╣║╗╝╜╛┐ø×®ÁÂÀ©"
# UTF-8 of Cyrillic, whose first bytes are two letters here.
_KOI8 = "─│┌┐└┘├┤┬┴┼▀▄█▌▐░▒▓⌠■∙√≈≤≥\u00a0⌡°²·÷═║╒ё╓╔╕╖╗╘╙╚╛╜╝╞╟╠╡Ё╢╣╤╥╦╧╨╩╪╫╬©"
_GBK = "锛銆鐨涓鍙杩鏄鍦鏈璇瑕闂绛缁浠鍒鍚鍥鎴浣鐢鐨勭瀛鏂埛閲屾壘瓟妗堬紝笅闈殑湅枃"
PATTERN = "|".join(
    (
        rf"(?:[РС][{_CP1251}]){{3,}}|вЂ[™”“њќўќ¦˜™]|(?:[A-Za-z]Г[{_CP1251}]|Г[{_CP1251}][a-z]){{1}}",
        rf"\p{{Latin}}√[{_MAC}]|√[áúñÑüéèêöß∫ºªµ∂§©®±†°•¢£][a-z]|‚Ä[ôúùìîòû¶¢†]|(?:[–—][{_MAC}∞π≤≥±¥]){{4,}}",
        rf"\p{{Latin}}├[{_DOS}]\p{{Latin}}|ΓÇ[ÿÖ£¥ôöóªî]|(?:[╨╤ðÐ][{_DOS}░▒▓│┤]){{4,}}",
        rf"(?:[пя][{_KOI8}]){{3,}}",
        rf"锟斤拷|(?:[{_GBK}][^\s]{{0,2}}){{4,}}|{LATIN}",
        r"(?:縺[^\s]|繧[^\s]|繝[^\s]){3,}",
        # Words of nothing but accented letters: Cyrillic in cp1251, or Chinese in GBK, as Latin-1.
        r"[À-ÖØ-öø-ÿ]{5,}[^\p{L}]{1,3}[À-ÖØ-öø-ÿ]{2,}[^\p{L}]{1,3}[À-ÖØ-öø-ÿ]{2,}",
    )
)
# A web address, a regular expression or a conditional, where a question mark has its own meaning.
_MEANT = r"\S*[/=&\\|\[\](){}*+^$:]\S*"
LOST_ACCENT = r"\p{L}\?\p{Ll}|\p{Ll}\?\p{L}"
_FEWEST = 3  # in a message


def is_garbled(text: "pl.Expr") -> "pl.Expr":
    return text.str.contains(PATTERN)


def has_lost_accents(text: "pl.Expr") -> "pl.Expr":
    """Return whether question marks stand for letters: several between letters, and hardly any at a
    word's end, where they ask."""
    plain = text.str.replace_all(_MEANT, " ")
    inside = plain.str.count_matches(LOST_ACCENT)
    return (inside >= _FEWEST) & (2 * inside >= plain.str.count_matches("?", literal=True))


def may_have_lost_accents(text: "pl.Expr") -> "pl.Expr":
    return text.str.count_matches(LOST_ACCENT) >= _FEWEST
