# For a machine with an NVIDIA GPU. Not built or run by the project's tests: they have neither a GPU nor a container
# registry. TORCH_INDEX is the package index of the CUDA build of torch that fits the host's driver.
#
#   docker build --tag vistune --build-arg TORCH_INDEX=<index of the build> .
#   docker run --gpus all --volume "$PWD:/data" vistune train llava-v1.5-7b-lora data=/data/mine.json --out /data/run
#   docker run --gpus all --publish 8000:8000 --volume "$PWD:/data" vistune \
#       serve /data/run --host 0.0.0.0 --api-key-file /data/keys
FROM python:3.12-slim

ARG TORCH_INDEX=""

# Korean letters in plots and diagrams.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends fonts-nanum \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY constraints.txt ./
# CUDA builds bring the CUDA libraries along: the host needs a driver and NVIDIA's container toolkit only.
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt '.[cuda,serve,evaluate,parquet,track]'

RUN useradd --create-home vistune
USER vistune
WORKDIR /data
ENTRYPOINT ["vistune"]
