"""Texts that tell apart tokenizers that are nearly the same."""

# All in Unicode's composed form (NFC): llama.cpp leaves out the normalizer of tokenizers that
# compose text (Qwen's), and so reads an accent written apart from its letter as training did not.
PROBES = (
    "Hello, world! It's 7 o'clock; they've said \"we'LL see\".",
    " leading and trailing spaces  ",
    "runs of      spaces,\ttabs\t\t\tand\n\n\nlines\r\n  indented\n",
    "0 1 12 123 1234 12345 3.14159 1,000,000 2026-11-23 v2.0.1 ½ ٣٤٥",
    'def f(x: int) -> str:\n    return f"{x!r:>10}"  # café\n\n\nclass A(B): ...\n',
    "<div class='a'>&amp;</div> https://example.org/a?b=c&d=%20#e me@example.org \\n \\\\ $x^2_i$",
    "Füße, naïve, œuvre, ÅNGSTRÖM, ﬁ (ligature), İstanbul",
    "Привет, мир. Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया। สวัสดีชาวโลก",
    "你好，世界！吾輩は猫である。名前はまだ無い。안녕하세요 세계",
    "😀👍🏽👨‍👩‍👧‍👦🏳️‍🌈 ✓ → ∑ ￼ \u200b zero-width \u00a0 no-break",
    "user\nassistant\nsystem <|not_a_token|> <s> </s> [INST] <0x0A> <unk>",
)
