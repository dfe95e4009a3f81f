# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/motet
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY bus bus
COPY agents agents
COPY observability observability
COPY gateway gateway
RUN /opt/motet/bin/pip install --no-cache-dir .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home --home-dir /home/motet motet
COPY --from=build /opt/motet /opt/motet
ENV PATH=/opt/motet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /home/motet
ENTRYPOINT ["motet"]
CMD ["--help"]
