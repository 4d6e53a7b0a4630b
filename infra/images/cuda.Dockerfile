# syntax=docker/dockerfile:1.7
# retune for a machine with NVIDIA GPUs; the driver must know CUDA 13 (580 or newer).
#
#   docker build --file infra/images/cuda.Dockerfile --tag retune:cuda .
#
# GPU_ARCHITECTURES are the compute capabilities that llama.cpp's programs measure on: 8.0 is an A100,
# 8.6 an A10, 8.9 an L4 or RTX 4090, 9.0 an H100. Each adds minutes to the build.

FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS environment
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/retune
# What the environment is made of comes first: a change of code installs nothing anew.
COPY LICENSE MANIFEST.in README.md THIRD_PARTY_NOTICES.md pyproject.toml requirements.lock setup.py ./
COPY infra/install.sh infra/cuda.lock infra/no-dependencies.txt infra/torch.txt infra/
COPY infra/images/servers.txt infra/images/
COPY flows/installed flows/installed
RUN infra/install.sh python3.12 /opt/venv \
    && /opt/venv/bin/python -m pip install --no-deps --require-hashes --only-binary :all: \
        --requirement infra/images/servers.txt

FROM environment AS llamacpp
ARG GPU_ARCHITECTURES="8.0 8.6 8.9 9.0"
COPY infra infra
COPY retune retune
# The build is named by all that decides it, so that a change of other code finds it in the cache.
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/retune,sharing=locked \
    PATH="/opt/venv/bin:$PATH" python -m infra.llamacpp.build --architectures $GPU_ARCHITECTURES \
    && base="$(/opt/venv/bin/python -m infra.llamacpp.build --where)" \
    && mkdir /opt/llama \
    && cp -a "$base" /opt/llama/llama.cpp \
    && for cuda in "$base"-cuda-*/; do \
        cp -a "$cuda" "/opt/llama/llama.cpp-cuda-${cuda#"$base"-cuda-}"; \
    done

FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04
# A compiler: Triton compiles a stub when it first meets a GPU.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev libgomp1 \
        python3.12 python3.12-dev \
    && rm -rf /var/lib/apt/lists/* \
    && userdel --remove ubuntu \
    && useradd --create-home --uid 1000 retune \
    && install --directory --owner retune --group retune --mode 0700 \
        /var/lib/retune /var/lib/prefect /home/retune/.cache
COPY --from=environment /opt/venv /opt/venv
COPY --from=llamacpp /opt/llama /opt/llama
COPY . /opt/retune
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RETUNE_HOME=/var/lib/retune \
    RETUNE_LLAMACPP=/opt/llama/llama.cpp
WORKDIR /opt/retune
USER 1000:1000
ENTRYPOINT ["/opt/retune/infra/images/entrypoint.sh"]
CMD ["retune", "--help"]
# A worker's (`retune worker --healthcheck`); the servers' are in compose.yaml.
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health', timeout=15)"]
