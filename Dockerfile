# reliquant on CPUs. Build: docker build --tag reliquant . - and run: see docs/install.md
FROM python:3.13-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/reliquant && python -m pip install --no-cache-dir "uv>=0.8,<1"
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY benchmark benchmark
COPY tasks tasks
COPY trackers trackers
COPY search search
ARG TORCH_BACKEND=cpu
RUN uv pip install --no-cache --python /opt/reliquant/bin/python --torch-backend "$TORCH_BACKEND" \
    --constraint constraints.txt ".[onnx,search-ui,torchao,transformers]"

FROM python:3.13-slim-bookworm
COPY --from=build /opt/reliquant /opt/reliquant
RUN useradd --create-home --uid 1000 reliquant && mkdir /work && chown reliquant /work
ENV PATH=/opt/reliquant/bin:$PATH
USER reliquant
WORKDIR /work
ENTRYPOINT ["reliquant"]
CMD ["run", "demo"]
