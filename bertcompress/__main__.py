"""`python -m bertcompress`, which is what `accelerate launch -m bertcompress` starts."""

from bertcompress.cli import main

if __name__ == "__main__":
    main()
