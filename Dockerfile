# The image of wq-run: one program, the libraries that it loads, certificates; no shell.
#
#   podman build -t localhost/wq-run:dev --build-arg BINARY=compiled .      compiles from source
#   podman build -t localhost/wq-run:dev --build-arg BINARY=prebuilt .      takes build/image/wq-run
#
# scripts/image.sh does either. Podman 4.3 does not see the default of BINARY, so it has to be named.
ARG BINARY=compiled

# rust-toolchain.toml stays outside: here the image's tag names the toolchain.
FROM docker.io/library/rust:1.95-bookworm AS compiled
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY runner runner
# Not built here, but a member of the workspace.
COPY bench bench
ARG REVISION=unknown
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    WQ_COMMIT="${REVISION}" cargo build --release --locked -p wq-run && cp target/release/wq-run /wq-run

FROM scratch AS prebuilt
COPY build/image/wq-run /wq-run

# hadolint ignore=DL3006
FROM ${BINARY} AS binary

# The root file system is collected on the Debian that the binary was linked for, so that the libraries fit.
FROM docker.io/library/debian:bookworm-slim AS rootfs
# hadolint ignore=DL3008
RUN if [ ! -s /etc/ssl/certs/ca-certificates.crt ]; then \
      apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /rootfs
COPY --from=binary --chmod=755 /wq-run usr/local/bin/wq-run
# libc has the resolver and the "files" and "dns" name services built in; the loader and the libraries are what ldd finds.
# Each package's status and copyright go along, for scanners and for the licences. The last line proves that the program
# starts with nothing but this.
RUN set -eu; \
    mkdir -p etc/ssl/certs var/lib/dpkg/status.d tmp; \
    chmod 1777 tmp; \
    cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/; \
    cp -L /etc/os-release etc/os-release; \
    echo 'wq:x:65532:65532:wq-run:/tmp:/sbin/nologin' > etc/passwd; \
    echo 'wq:x:65532:' > etc/group; \
    echo 'hosts: files dns' > etc/nsswitch.conf; \
    ldd usr/local/bin/wq-run > /tmp/ldd || true; \
    grep -o '/[^ ]*' /tmp/ldd > /tmp/libraries || true; \
    while read -r library; do \
      cp -L --parents "$library" .; \
      package=$(dpkg-query -S "$library"); \
      package=${package%%:*}; \
      dpkg-query -s "$package" > "var/lib/dpkg/status.d/$package"; \
      cp --parents "/usr/share/doc/$package/copyright" .; \
    done < /tmp/libraries; \
    chroot . /usr/local/bin/wq-run --version

FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="wq-run" \
      org.opencontainers.image.description="Runs a WASI guest for each message of a queue, in a sandbox" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=rootfs /rootfs /
# The bill of materials is there if scripts/image.sh could make one.
COPY LICENSE build/image/wq-run.cdx.jso[n] /usr/share/doc/wq-run/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/wq-run"]
CMD ["work"]
