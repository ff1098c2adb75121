"""Run a command of the package in this process, as its user would."""


def runner(main, capfd):
    """A function of words that runs a command: (status, stdout, stderr). main: its main()."""

    def run(*args):
        status = main([str(arg) for arg in args])
        return status, *capfd.readouterr()

    return run


def refusal(run, program: str):
    """A function of words that runs a command which must fail with one line on stderr and nothing on stdout; returns its message.

    run: what runner() gave.
    """

    def refused(*args):
        status, out, err = run(*args)
        assert (status, out, len(err.splitlines())) == (2, "", 1), err
        assert err.startswith(f"{program}: error: ")
        return err.removeprefix(f"{program}: error: ").rstrip("\n")

    return refused
