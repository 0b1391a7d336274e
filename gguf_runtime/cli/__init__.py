"""The command line, `ggrun`."""


def main() -> None:
    raise SystemExit("ggrun: under construction")
