"""The steps of kubeface: each reads a folder and writes a folder."""
