"""python -m kubeface: the command `kubeface`."""

from kubeface.cli import main

if __name__ == "__main__":
    main()
