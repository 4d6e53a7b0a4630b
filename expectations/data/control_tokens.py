"""Control tokens of other models' templates.

In code they may well be quoted; in prose they are the leavings of another tool's template. What
people write as well is not on the list: HTML (`<b>`), placeholders (`[MASK]`, `[PREFIX]`, `[ARGS]`),
and the tags that reasoning and tool calls are written in (`<think>`, `<tool_call>`).
"""

FOREIGN_TOKENS = (
    # GPT-2 and its heirs, Llama 3 and 4, Phi, GLM, Command R and gpt-oss all write <|word|>; so do
    # their reserved tokens: see PATTERN. Here are those that are met most.
    *("<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|end|>", "<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|python_tag|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|turn|>"),
    # DeepSeek
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    # Llama 2 and Mistral
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<unk>"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[CALL_ID]"),
    *("[IMG_BREAK]", "[IMG_END]", "[BEGIN_AUDIO]", "[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"),
    # Gemma
    *("<bos>", "<eos>", "<pad>", "<mask>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    # code models
    *("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<file_sep>", "<jupyter_code>"),
    *("<commit_before>", "<commit_after>", "<commit_msg>", "<issue_start>", "<reponame>"),
    # Command R, ChatGLM, InternLM, Seed, MiniMax
    *("<BOS_TOKEN>", "<EOS_TOKEN>", "[gMASK]", "<sop>", "<eop>", "<eoh>", "<eoa>", "<eod>"),
    *("<seed:bos>", "<seed:eos>", "<seed:think>", "]~b]", "[e~[", "<im_start>", "<im_end>"),
)
# All of a family's tokens by their form, the reserved ones too.
PATTERN = (
    r"<\|[A-Za-z][A-Za-z0-9_/-]{1,40}\|>|<｜[^｜\s<>]{1,40}｜>"
    r"|<unused\d{1,4}>|<extra_id_\d{1,4}>|<reserved_(?:token_)?\d{1,4}>|<SPECIAL_\d{1,4}>"
    r"|<TOKENS_UNUSED_\d{1,4}>|\[UNUSED_TOKEN_\d{1,4}\]|<\|(?:\w+\s?){0,3}end▁of▁\w+\|>"
)
# One of these is in whatever PATTERN matches.
BEGINNINGS = (
    *("<|", "<｜", "<unused", "<extra_id_", "<reserved_", "<SPECIAL_", "<TOKENS_UNUSED_"),
    "[UNUSED_TOKEN_",
)
