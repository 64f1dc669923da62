"""What people see: the story while it happens, and the table at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heliograph.client import Message
from heliograph.local.demo.verdict import Result

COLOURS = {"ada": "cyan", "ada's phone": "cyan", "planner": "magenta", "search": "blue", "calculator": "yellow"}
TOLD_EVERY_S = 1.0
"""After the first question, which is told in full: more than one answer a second nobody reads."""
NAME_WIDTH = 12


class Teller:
    """Tells the story on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._messages = 0
        self._first: str | None = None
        self._first_over = False
        self._speaking: str | None = None
        self._told_s = 0.0
        self._asked: dict[str, str] = {}

    def progress(self, line: str) -> None:
        """Set-up."""
        self._console.print(f"  [dim]{escape(line)}[/]")

    def connected(self, edges: Mapping[str, str]) -> None:
        where = ", ".join(f"{self._name(name)} [dim]on {edge}[/]" for name, edge in edges.items())
        self._console.print(f"\n[bold]Everybody is there.[/] Each client knows both edges: {where}\n", highlight=False)

    def message(self, message: Message, now_s: float) -> None:
        """The first question in full, then one answer a second."""
        self._messages += 1
        data = message.data
        if message.class_ == "control":
            self._asked[message.id] = data["light to"]
            self._first = self._first or message.id
        if self._first is not None and self._first in (message.id, message.correlation_id) and not self._first_over:
            self._in_full(message, now_s)
        elif "answer" in data and now_s - self._told_s >= TOLD_EVERY_S:
            self._told_s = now_s
            asked = self._asked.get(message.causation_id or "", "?")
            text = f"{self._say('ada')} {asked}? {self._name('planner')} {escape(data['answer'])}"
            self._line(now_s, f"{text} [dim]{self._messages:,} messages[/]")

    def _in_full(self, message: Message, now_s: float) -> None:
        data = message.data
        match data:
            case {"light to": place}:
                what = f"{self._say('ada')} how long does sunlight need to {place}? [dim](sent twice, is one)[/]"
            case {"distance of": place}:
                what = f"{self._say('planner')} search, what is the distance of {place}?"
            case {"percent": percent}:
                self._piece("search", f"[dim]{percent} % …[/]", now_s)
                return
            case {"km": km}:
                what = f"{self._say('search')} {km:,} km"
            case {"divide": [dividend, divisor]}:
                what = f"{self._say('planner')} calculator, {dividend:,} / {divisor:,}?"
            case {"result": result}:
                what = f"{self._say('calculator')} {result:.4f}"
            case {"word": word}:
                self._piece("planner", escape(word), now_s)
                return
            case {"answer": answer}:
                self._first_over = True
                what = f"{self._say('ada')} [bold]{escape(answer)}[/] Thank you!"
            case _:
                return
        self._line(now_s, what)

    def phone_left(self, position: str, now_s: float) -> None:
        self._line(now_s, f"{self._say('ada')} puts her phone away. [dim]It has read up to {position}[/]")

    def killed(self, edge: str, there: Sequence[str], now_s: float) -> None:
        who = ", ".join(self._name(name) for name in there)
        self._line(now_s, f"[bold red]✗ {edge} is killed[/] (SIGKILL, in the middle of a sentence). On it: {who}")

    def moved(self, name: str, edge: str, now_s: float) -> None:
        self._line(now_s, f"{self._say(name)} [green]goes on at {edge}[/]")

    def phone_returned(self, missed: int, edge: str, now_s: float) -> None:
        text = f"takes her phone out again: at {edge}, it gets the {missed} messages that it missed"
        self._line(now_s, f"{self._say('ada')} {text}")

    def settling(self, now_s: float) -> None:
        self._line(now_s, "[dim]That was the last answer. Waiting until Kafka has everything[/]")

    def reading_back(self) -> None:
        self._end_piece()
        self._console.print("\n  [dim]reading it all back: from Kafka, and through replay[/]")

    def _piece(self, name: str, text: str, now_s: float) -> None:
        """A word of a line that grows as words come."""
        if self._speaking != name:
            self._end_piece()
            self._speaking = name
            self._console.print(f"[dim]{now_s:5.1f} s[/]  {self._say(name)}", end="", highlight=False)
        self._console.print(f" {text}", end="", highlight=False)

    def _end_piece(self) -> None:
        if self._speaking is not None:
            self._speaking = None
            self._console.print()

    def _line(self, now_s: float, text: str) -> None:
        self._end_piece()
        self._console.print(f"[dim]{now_s:5.1f} s[/]  {text}", highlight=False)

    def _name(self, name: str) -> str:
        return f"[{COLOURS.get(name, 'white')}]{name}[/]"

    def _say(self, name: str) -> str:
        return f"[{COLOURS.get(name, 'white')}]{name:<{NAME_WIDTH}}[/]"


def show(console: Console, result: Result) -> None:
    """The table."""
    table = Table(title="\nWhat came out", title_style="bold", title_justify="left", show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for class_, counts in result.messages.items():
        kept = f"{counts['durable']:,} in Kafka" if class_ != "telemetry" else "not kept, as this tenant wants it"
        table.add_row(class_, f"{counts['published']:,} published, {counts['delivered']:,} delivered, {kept}")
    repeats = result.duplicates
    table.add_section()
    table.add_row(
        "duplicates",
        f"{repeats['on_purpose']} sent on purpose, {repeats['resent']} resent by the SDK; "
        f"{repeats['collapsed']} collapsed, {repeats['left'] or 'none'} left",
    )
    table.add_row("gaps", str(result.gaps) if result.gaps else "none")
    table.add_row("edges", f"{result.killed} killed; moved: {', '.join(result.moved)}; {result.reconnects} reconnects")
    if result.rewritten:
        table.add_row("", f"{result.rewritten} messages died with it on their way to Kafka: the router wrote them")
    resumed = result.resumed
    table.add_row("away", f"ada's phone, {resumed['away_s']} s; came back and got the {resumed['missed']} it missed")
    latency = result.latency_ms
    table.add_row(
        "publish to delivery",
        f"p50 {latency['p50']} ms, p99 {latency['p99']} ms; longest, over the kill, {latency['longest']} ms",
    )
    table.add_section()
    table.add_row("questions", f"{result.questions} asked, {result.answers} answered")
    table.add_row("read from Kafka", f"{result.read_back['kafka']:,} messages, byte for byte what was delivered")
    table.add_row("read through replay", f"{result.read_back['replay']:,} messages, the same, in order")
    console.print(table)
    if result.ok:
        console.print("\n[bold green]Nothing lost, nothing doubled, nothing out of order.[/]")
    else:
        for problem in result.problems:
            console.print(f"[bold red]✗[/] {escape(problem)}", highlight=False)


def show_failure(console: Console, why: str, directory: Path) -> None:
    """What went wrong, and where to look."""
    console.print(f"\n[bold red]The demo failed:[/] {escape(why)}", highlight=False)
    console.print(f"Logs of every process are in {escape(str(directory / 'logs'))}", highlight=False, soft_wrap=True)
