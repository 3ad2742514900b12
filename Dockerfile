# syntax=docker/dockerfile:1

# One image for workers, beat, Flower and the command line; which of them it is, its command says.
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/src/constraints.txt
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY threadkeep threadkeep
RUN pip wheel --no-deps --wheel-dir /wheels . \
 && python -m venv /opt/threadkeep \
 && /opt/threadkeep/bin/pip install "$(echo /wheels/threadkeep-*.whl)[flower]" \
 && /opt/threadkeep/bin/pip uninstall --yes pip

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --home-dir /var/lib/threadkeep threadkeep \
 && install --directory --owner=threadkeep --group=threadkeep --mode=0750 /var/lib/threadkeep
COPY --from=build /opt/threadkeep /opt/threadkeep
ENV PATH=/opt/threadkeep/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER threadkeep
WORKDIR /var/lib/threadkeep
ENTRYPOINT ["threadkeep"]
CMD ["--help"]
