# Two images: `docker build -t graticule .` for all commands (docs/remote.md; a GPU needs its driver and the container
# toolkit on the machine, nothing else), and `docker build --target serve -t graticule-serve .` for the page and the
# service alone, as a user without rights on a file system that nobody writes to (docs/serve.md).
# TORCH_INDEX may name PyTorch's own index of CPU builds, which are much smaller.
FROM python:3.11-slim AS base

ARG TORCH_INDEX=
RUN apt-get update && apt-get install -y --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/graticule

# The libraries first: they change rarely, and with the source unchanged this layer is kept.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --constraint constraints.txt --index-url "$TORCH_INDEX" torch torchvision; fi \
    && mkdir graticule && touch graticule/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt . \
    && pip uninstall -y graticule && rm -rf build graticule *.egg-info

COPY graticule graticule
RUN pip install --no-cache-dir --no-deps . && rm -rf build *.egg-info && graticule --version

FROM base AS serve
RUN useradd --system --uid 10001 --no-create-home graticule
# What libraries would keep goes to /tmp, the one place that may be written to; photos go nowhere.
ENV HOME=/tmp MPLCONFIGDIR=/tmp GRATICULE_CACHE=/tmp PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 10001
EXPOSE 8017
ENTRYPOINT ["graticule", "serve", "--host", "0.0.0.0"]
CMD ["/bundle"]

FROM base
# Weights that timm or torchvision fetch, and features, outlive the container where /data is a volume.
ENV HF_HOME=/data/cache/hub TORCH_HOME=/data/cache/torch GRATICULE_CACHE=/data/cache/graticule
VOLUME /data
WORKDIR /data
ENTRYPOINT ["graticule"]
