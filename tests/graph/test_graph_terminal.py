import io

from ssl_sat.graph.terminal import Tee, plain


def test_the_terminal_gets_everything_and_the_log_plain_lines():
    terminal, log = io.StringIO(), io.StringIO()
    tee = Tee(terminal, log)
    written = ["one\n", "\x1b[1mtwo\x1b[0m\nba", "r 1/2\rbar 2/2\n", "\r\x1b[2Kredrawn\n", "end\n"]
    for text in written:
        tee.write(text)
    tee.flush()
    assert terminal.getvalue() == "".join(written)
    assert log.getvalue() == "one\ntwo\nbar 2/2\nend\n"


def test_a_terminal_that_goes_away_is_no_error():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    log = io.StringIO()
    tee = Tee(Gone(), log)
    tee.write("still here\n")
    tee.flush()
    assert log.getvalue() == "still here\n" and not tee.isatty()


def test_plain():
    assert plain("a\rb\r") == "b"
    assert plain("\x1b[31mred\x1b[0m") == "red"
