"""What Kubeflow is told of the steps: one folder each, with its interface and its page."""
