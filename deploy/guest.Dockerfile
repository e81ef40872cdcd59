# An image that holds a guest and its compiled code and nothing else, for an image volume in a pod.
#
#   make guest-image GUEST=task.wasm                                    localhost/task:dev
#   wq-run manifest job task.wasm --guest-from=image/localhost/task:dev
#
# The flags that change the code have to be those of the workers: --fuel, --deterministic and --max-wasm-stack. Without make, write
# them behind "/compiled/cache" below. Compiled code is for one version of wq-run, and for processors with the features of the one
# that compiled it; a worker that finds none for itself compiles the guest at its start.
ARG WQ_RUN=localhost/wq-run:dev

# hadolint ignore=DL3006
FROM ${WQ_RUN} AS compiled
ARG GUEST=task.wasm
# hadolint ignore=DL3002
USER 0:0
COPY --chmod=644 ${GUEST} /compiled/
# There is no shell here.
RUN ["/usr/local/bin/wq-run", "compile", "/compiled", "--cache-dir", "/compiled/cache"]

FROM scratch
COPY --from=compiled /compiled /
