# docker build -t signvit .                                   CPU
# docker build -t signvit:cuda --build-arg EXTRA=cuda .       NVIDIA GPUs (the driver comes from the host)
# docker run --rm --shm-size=8g -v "$PWD:/data" signvit translate --workdir=/data/runs/mine /data/clip.mp4
FROM python:3.12-slim
ARG EXTRA=""
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY signvit_jax signvit_jax
COPY tfds_builders tfds_builders
RUN python -m venv .venv \
 && .venv/bin/pip install --no-cache-dir --constraint constraints.txt ".${EXTRA:+[$EXTRA]}"
ENV PATH="/app/.venv/bin:$PATH" PYTHONUNBUFFERED=1
WORKDIR /data
ENTRYPOINT ["signvit"]
