"""`python -m bertcompress`, which is what `accelerate launch -m bertcompress` starts."""

from bertcompress.cli.main import main

if __name__ == "__main__":
    main()
