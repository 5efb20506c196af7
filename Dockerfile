# A machine with an NVIDIA GPU, its driver and the container toolkit needs nothing else. docs/remote.md says how to use it.
FROM python:3.11-slim

RUN apt-get update && apt-get install -y --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/graticule

# The libraries first: they change rarely, and with the source unchanged this layer is kept.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir graticule && touch graticule/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt . \
    && pip uninstall -y graticule

COPY graticule graticule
RUN pip install --no-cache-dir --no-deps .

# Weights that timm or torchvision fetch, and features, outlive the container where /data is a volume.
ENV HF_HOME=/data/cache/hub TORCH_HOME=/data/cache/torch GRATICULE_CACHE=/data/cache/graticule
VOLUME /data
WORKDIR /data
ENTRYPOINT ["graticule"]
