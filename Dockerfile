# An image with mltrain and its optional parts.
#
#   docker build -t mltrain .                                                              # CPU and any NVIDIA GPU
#   docker build -t mltrain --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .      # on a CUDA base of yours
#   docker run --rm -v "$PWD:/work" mltrain train
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" mltrain train dataset=coco
#
# PyPI's torch brings its own CUDA libraries, so a CUDA base is only needed by other software in the image.
# Loader workers hand over batches in shared memory: Docker's default of 64 MB is too small for photographs.
ARG BASE=python:3.12-slim
FROM ${BASE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The newest Python in the PATH: that of the base if it has one, else the distribution's.
ENV PATH=/opt/mltrain/bin:$PATH
RUN "$(command -v /usr/local/bin/python3 || command -v python3)" -m venv /opt/mltrain

COPY . /opt/source
RUN pip install --no-cache-dir "/opt/source[export,hub]"

# Runs, data and weights lie in the folder that is mounted here.
WORKDIR /work
ENTRYPOINT ["mltrain"]
CMD ["--help"]
