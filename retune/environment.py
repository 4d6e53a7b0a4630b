"""Which of our environment variables a child process sees: what it works with, and no secret.

A child that reads a stranger's files may be made to tell what it knows, so it is told little.
"""

import os
import re

# By name; what is meant to be secret says so nearly always. TOKENIZERS_PARALLELISM is none.
SECRET = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH|COOKIE|SIGNATURE|DATABASE_URL|WEBHOOK"
    r"|CONNECTION_STRING|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|(^|_)(KEY|PAT|DSN|PASS)$|_PWD$",
    re.IGNORECASE,
)
# Services that a child has no business with, whatever their variables are called.
SERVICES = re.compile(
    r"(PREFECT|MLFLOW|AWS|AZURE|ARM|GOOGLE|GCP|GCLOUD|CLOUDSDK|DATABRICKS|WANDB|OPENAI|ANTHROPIC"
    r"|GITHUB|GITLAB|CI|DOCKER|KUBE|VAULT|SSH|GPG|PG|MYSQL|REDIS|SMTP|SLACK|SENTRY)_",
    re.IGNORECASE,
)
# scheme://user:password@host
PASSWORD_IN_URL = re.compile(r"://[^/\s@]+@")
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")
PROXY = re.compile(r"(https?|all|no)_proxy", re.IGNORECASE)
# How the Hub is reached; HF_HOME and the like say where what it gave lies.
NETWORK = re.compile(r"(HF|HUGGING_?FACE)_\w+|(SSL_CERT|REQUESTS_CA|CURL_CA)_\w+")
# Without the Hub: what a library would fetch by itself, and the token that `hf auth login` keeps.
NO_HUB = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_TOKEN_PATH": os.devnull,
}
# All that a program needs which reads one file and writes another.
PLAIN = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|TZ|TMPDIR|TMP|TEMP|SYSTEMROOT|PYTHONPATH|PYTHONHOME"
    r"|VIRTUAL_ENV|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|NUMEXPR_NUM_THREADS|HF_(HOME|\w+_CACHE)"
    r"|(LC|OMP|GOMP|KMP|MKL|OPENBLAS|ATEN|GGML|CUDA|NVIDIA|HIP|ROCR|HSA|VK|XDG)_\w+"
)


def without_secrets(hub: bool) -> dict[str, str]:
    """Return our environment for a child that trains or measures, without passwords and tokens.

    With `hub` it downloads, and keeps the Hub's token and the proxy alone; without, its libraries
    are offline.
    """
    if hub:
        return {name: value for name, value in os.environ.items() if _needed(name, value)}
    kept = {name: value for name, value in os.environ.items() if not _secret(name, value)}
    return kept | NO_HUB


def plain(hub: bool = False) -> dict[str, str]:
    """Return the few variables that a program needs which has no use for network or account.

    With `hub` it downloads: the Hub's settings and token, certificates and the proxy are among them.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if PLAIN.fullmatch(name) and not PASSWORD_IN_URL.search(value)
    }
    if not hub:
        return kept | NO_HUB
    way = {
        name: value
        for name, value in os.environ.items()
        if NETWORK.fullmatch(name) or PROXY.fullmatch(name)
    }
    return kept | way


def _needed(name: str, value: str) -> bool:
    return name in HUB_TOKENS or bool(PROXY.fullmatch(name)) or not _secret(name, value)


def _secret(name: str, value: str) -> bool:
    return bool(SECRET.search(name) or SERVICES.match(name) or PASSWORD_IN_URL.search(value))
