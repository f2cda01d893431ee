#!/usr/bin/env bash
# A kind cluster with Kubeflow Pipelines and the images, and tests/e2e on it. `make e2e` calls it. KEEP=1 leaves the
# cluster. Needs docker, kind, kubectl and internet.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${BIN:=.venv/bin}" "${KFP_VERSION:=2.17.0}" "${NAME:=kubeface-e2e}" "${REGISTRY_PORT:=5001}"

for tool in docker kind kubectl; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing: install it, make e2e needs it" >&2; exit 1; }
done

clean() {
    [ -n "${KEEP:-}" ] && { echo "e2e: the cluster stays: kind delete cluster --name $NAME"; return; }
    kind delete cluster --name "$NAME" || true
    docker rm -f "$NAME-registry" >/dev/null 2>&1 || true
}
trap clean EXIT

# A registry that both docker and the nodes reach (https://kind.sigs.k8s.io/docs/user/local-registry/): digests are a
# registry's, and the pipeline names its images by digest.
docker run -d --restart=always -p "127.0.0.1:$REGISTRY_PORT:5000" --name "$NAME-registry" registry:2
kind create cluster --name "$NAME" --wait 5m --config - <<'YAML'
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
containerdConfigPatches:
  - |-
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = "/etc/containerd/certs.d"
YAML
docker network connect kind "$NAME-registry"
for node in $(kind get nodes --name "$NAME"); do
    docker exec -i "$node" sh -c "mkdir -p /etc/containerd/certs.d/localhost:$REGISTRY_PORT &&
        cat > /etc/containerd/certs.d/localhost:$REGISTRY_PORT/hosts.toml" <<<"[host.\"http://$NAME-registry:5000\"]"
done
export KUBE_CONTEXT="kind-$NAME"
kubectl config use-context "$KUBE_CONTEXT"

manifests=https://github.com/kubeflow/pipelines/manifests/kustomize
kubectl apply -k "$manifests/cluster-scoped-resources?ref=$KFP_VERSION"
kubectl wait --for condition=established --timeout=60s crd/applications.app.k8s.io
kubectl apply -k "$manifests/env/platform-agnostic?ref=$KFP_VERSION"
kubectl -n kubeflow wait --for=condition=available --timeout=15m deployment --all

make images push REGISTRY="localhost:$REGISTRY_PORT/kubeface" ENGINE=docker
E2E=1 "$BIN/python" -m pytest -x tests/e2e
