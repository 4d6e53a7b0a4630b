"""The child process of `answering.py`: llama.cpp's server in process, by the wheel `xllamacpp`.

It is run as a script and imports nothing of retune. The request comes on stdin, the answers go to
the file named as argument: llama.cpp writes to stdout as it likes.
"""

import json
import os
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

AT_A_TIME = 4
SOCKET = "llama.sock"  # llama.cpp takes a name that ends so for a Unix socket, not for a host
TIMED_TOKENS = 32  # of one answer on its own, for the speed


def main() -> None:
    """Answer each conversation of the request on stdin; write answers and speed as JSON."""
    request = json.load(sys.stdin)
    if request["memory"]:
        # Not of the address space, of which threads take much more than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (request["memory"], request["memory"]))
    require_chat_template(request["gguf"])
    out = Path(sys.argv[1])
    os.chdir(out.parent)
    server = start_server(request)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        ask = [(server, messages, request["max_tokens"]) for messages in request["conversations"]]
        answers = list(pool.map(lambda arguments: answer(*arguments), ask))
    # The longest conversation's `context` has room for as many tokens as this.
    tokens = min(TIMED_TOKENS, request["max_tokens"])
    alone = reply(server, request["conversations"][0], tokens, ignore_eos=True)
    speed = alone["timings"]["predicted_per_second"]
    out.write_text(json.dumps({"answers": answers, "tokens_per_second": speed}))


def require_chat_template(gguf: str) -> None:
    """End the process if `gguf` has no chat template: llama.cpp would silently assume ChatML."""
    from gguf import GGUFReader

    if "tokenizer.chat_template" not in GGUFReader(gguf).fields:
        sys.exit(f"{gguf} has no chat template: save the tokenizer with one before conversion")


def start_server(request: dict[str, Any]) -> Any:
    """Load the model with room for AT_A_TIME conversations of `context` tokens each.

    The library always serves its HTTP API as well, to anyone and to every web page. Nobody needs
    it here, so it listens on a Unix socket in the current folder, which only its user can enter.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.hostnames = [SOCKET]  # relative: a socket's whole path has room for 107 bytes only
    params.cors_origins = ""
    params.endpoint_slots = False
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
    """Return text, finish reason and numbers of tokens of the answer to `messages`."""
    given = reply(server, messages, max_tokens)
    choice = given["choices"][0]
    return {
        "text": choice["message"]["content"],
        "finish_reason": choice["finish_reason"],
        "tokens": given["usage"]["completion_tokens"],
        "prompt_tokens": given["usage"]["prompt_tokens"],
    }


def reply(
    server: Any, messages: list[dict[str, Any]], max_tokens: int, **options: Any
) -> dict[str, Any]:
    """Return the server's whole reply, in the form of OpenAI's chat API; ends the process if refused."""
    # A prompt cache would make an answer depend on which ones came before.
    how = {"max_tokens": max_tokens, "temperature": 0, "cache_prompt": False}
    given = server.handle_chat_completions({"messages": messages, **how, **options})
    if "choices" not in given:
        sys.exit(f"llama.cpp refused a conversation: {json.dumps(given)}")
    return given


if __name__ == "__main__":
    main()
