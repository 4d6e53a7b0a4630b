"""The child process of `answering.py`: llama.cpp's server in process, by the wheel `xllamacpp`.

It is run as a script and imports nothing of retune. The request comes on stdin, the answers go to
the file named as argument: llama.cpp writes to stdout as it likes.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

AT_A_TIME = 4


def main() -> None:
    """Answer each conversation of the request on stdin; write the list of answers as JSON."""
    request = json.load(sys.stdin)
    require_chat_template(request["gguf"])
    server = start_server(request)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        ask = [(server, messages, request["max_tokens"]) for messages in request["conversations"]]
        answers = list(pool.map(lambda arguments: answer(*arguments), ask))
    Path(sys.argv[1]).write_text(json.dumps(answers))


def require_chat_template(gguf: str) -> None:
    """End the process if `gguf` has no chat template: llama.cpp would silently assume ChatML."""
    from gguf import GGUFReader

    if "tokenizer.chat_template" not in GGUFReader(gguf).fields:
        sys.exit(f"{gguf} has no chat template: save the tokenizer with one before conversion")


def start_server(request: dict[str, Any]) -> Any:
    """Load the model with room for AT_A_TIME conversations of `context` tokens each."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["gguf"]
    params.n_parallel = AT_A_TIME
    params.n_ctx = AT_A_TIME * request["context"]
    params.cpuparams.n_threads = request["threads"]
    params.cpuparams_batch.n_threads = request["threads"]
    params.sampling.temp = 0
    params.warmup = False
    # The text as generated, not parsed for reasoning or tool calls.
    params.force_pure_content_parser = True
    return xllamacpp.Server(params)


def answer(server: Any, messages: list[dict[str, Any]], max_tokens: int) -> dict[str, Any]:
    """Return text, finish reason and number of tokens of the answer to `messages`."""
    reply = server.handle_chat_completions(
        # A prompt cache would make an answer depend on which ones came before.
        {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "cache_prompt": False}
    )
    if "choices" not in reply:
        sys.exit(f"llama.cpp refused a conversation: {json.dumps(reply)}")
    choice = reply["choices"][0]
    return {
        "text": choice["message"]["content"],
        "finish_reason": choice["finish_reason"],
        "tokens": reply["usage"]["completion_tokens"],
    }


if __name__ == "__main__":
    main()
