# The image of wq-run: one program, the libraries that it loads, certificates; no shell.
#
#   podman build -t localhost/wq-run:dev --build-arg BINARY=compiled .      compiles from source
#   podman build -t localhost/wq-run:dev --build-arg BINARY=prebuilt .      takes build/image/wq-run
#
# With --platform linux/arm64 or linux/amd64 it is for that processor. Compilers run on this one, and nothing is emulated.
# scripts/image.sh does either. Podman 4.3 does not see the default of BINARY, so it has to be named.
ARG BINARY=compiled

# rust-toolchain.toml stays outside: here the image's tag names the toolchain.
FROM --platform=${BUILDPLATFORM} docker.io/library/rust:1.95-bookworm AS compiled
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY runner runner
# Not built here, but a member of the workspace.
COPY bench bench
COPY scripts/build-release.sh scripts/
ARG REVISION=unknown
ARG TARGETARCH
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    RELR=yes WQ_COMMIT="${REVISION}" scripts/build-release.sh "${TARGETARCH}" /wq-run

FROM scratch AS prebuilt
COPY build/image/wq-run /wq-run

# hadolint ignore=DL3006
FROM ${BINARY} AS binary

# The root file system is collected on the Debian that the binary was linked for, so that the libraries fit.
FROM --platform=${BUILDPLATFORM} docker.io/library/debian:bookworm-slim AS rootfs
# hadolint ignore=DL3008
RUN if [ ! -s /etc/ssl/certs/ca-certificates.crt ]; then \
      apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*; \
    fi
ARG TARGETARCH
# Libraries for another processor than this one's: nothing of them runs here.
WORKDIR /foreign
# hadolint ignore=DL3008
RUN set -eu; \
    if [ "${TARGETARCH}" != "$(dpkg --print-architecture)" ]; then \
      dpkg --add-architecture "${TARGETARCH}"; \
      apt-get update; \
      apt-get download "libc6:${TARGETARCH}" "libgcc-s1:${TARGETARCH}" "gcc-12-base:${TARGETARCH}"; \
      for package in *.deb; do dpkg-deb --extract "$package" .; done; \
      rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /rootfs
COPY --from=binary --chmod=755 /wq-run usr/local/bin/wq-run
# libc has the resolver and the "files" and "dns" name services built in; the loader and the libraries are what ldd finds, or for
# another processor those of libc6 and libgcc-s1 that the program names. Each package's status and copyright go along, for scanners
# and for the licences. Where it can, the last line proves that the program starts with nothing but this.
RUN set -eu; \
    mkdir -p etc/ssl/certs var/lib/dpkg/status.d tmp; \
    chmod 1777 tmp; \
    cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/; \
    cp -L /etc/os-release etc/os-release; \
    echo 'wq:x:65532:65532:wq-run:/tmp:/sbin/nologin' > etc/passwd; \
    echo 'wq:x:65532:' > etc/group; \
    echo 'hosts: files dns' > etc/nsswitch.conf; \
    for package in /foreign/*.deb; do \
      [ -e "$package" ] || break; \
      name=$(dpkg-deb --field "$package" Package); \
      { dpkg-deb --field "$package" Package Priority Section Maintainer Architecture Source Version; \
        echo 'Status: install ok installed'; } > "var/lib/dpkg/status.d/$name"; \
      install -D "/foreign/usr/share/doc/$name/copyright" "usr/share/doc/$name/copyright"; \
    done; \
    for library in /foreign/lib/*-linux-gnu/lib*.so* /foreign/lib*/ld-linux-*; do \
      [ -e "$library" ] || continue; \
      grep -qaF "${library##*/}" usr/local/bin/wq-run || continue; \
      mkdir -p "./$(dirname "${library#/foreign/}")"; \
      cp -L "$library" "./${library#/foreign/}"; \
    done; \
    if [ "${TARGETARCH}" = "$(dpkg --print-architecture)" ]; then \
      ldd usr/local/bin/wq-run > /tmp/ldd || true; \
      grep -o '/[^ ]*' /tmp/ldd > /tmp/libraries || true; \
      while read -r library; do \
        cp -L --parents "$library" .; \
        package=$(dpkg-query -S "$library"); \
        package=${package%%:*}; \
        dpkg-query -s "$package" > "var/lib/dpkg/status.d/$package"; \
        cp --parents "/usr/share/doc/$package/copyright" .; \
      done < /tmp/libraries; \
      chroot . /usr/local/bin/wq-run --version; \
    fi

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
