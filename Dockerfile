# docker build --target cpu -t fastvgan:cpu .     docker run --rm -v "$PWD:/work" fastvgan:cpu train --steps 200
# docker build --target cuda -t fastvgan:cuda .   docker run --rm --gpus all -v "$PWD:/work" fastvgan:cuda train
# Runs, clips and generated files are in /work. For `demo`, add -p 127.0.0.1:7860:7860 before the image's name, and
# --host 0.0.0.0 --no-browser after `demo`. A smaller image for the CPU takes the index of torch without CUDA that
# pytorch.org names: --build-arg TORCH_INDEX=…

FROM python:3.12-slim-bookworm AS builder
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt "setuptools>=77" pybind11

# The wheel with the compiled extension, for the CPU.
FROM builder AS wheel-cpu
ARG TORCH_INDEX
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY . .
RUN FASTVGAN_REQUIRE_EXTENSION=1 FASTVGAN_BUILD_CUDA=0 pip wheel --no-deps --no-build-isolation -w /wheels .

# The same with the CUDA part, by the compiler of PyPI's packages; torch of PyPI is built for CUDA 13.0.
FROM builder AS wheel-cuda
RUN pip install --no-cache-dir -c constraints.txt torch "cuda-toolkit[nvcc,cudart,cccl]==13.0.*"
COPY . .
RUN FASTVGAN_REQUIRE_EXTENSION=1 FASTVGAN_BUILD_CUDA=1 pip wheel --no-deps --no-build-isolation -w /wheels .

FROM python:3.12-slim-bookworm AS base
RUN useradd --create-home --uid 1000 user && mkdir /work && chown user /work
WORKDIR /work
ENTRYPOINT ["fastvgan"]
CMD ["--help"]

FROM base AS cuda
# Triton compiles a small C file when it first runs.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /tmp/
RUN --mount=type=bind,from=wheel-cuda,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /tmp/constraints.txt "fastvgan[all] @ file://$(ls /wheels/*.whl)"
USER 1000

FROM base AS cpu
ARG TORCH_INDEX
COPY constraints.txt /tmp/
RUN pip install --no-cache-dir -c /tmp/constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
RUN --mount=type=bind,from=wheel-cpu,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /tmp/constraints.txt "fastvgan[all] @ file://$(ls /wheels/*.whl)"
USER 1000
