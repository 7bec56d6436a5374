"""top: the live screen: what `screen` draws, kept fresh, and keys to explain, ban and release. Edge.

It asks the daemon over the control socket, one question a second, each on a connection of its own: a terminal that is
slow, stopped or gone holds up nothing but itself, and a daemon that was restarted is found again. It decides nothing:
who may ban or release, and whom, the daemon says. What a stranger wrote comes to the terminal escaped (screen.escaped),
and no text is ever read as markup. The terminal is as it was before, however this ends, short of SIGKILL.

Without colours (NO_COLOR) everything is told by words, bold and reverse. Import takes half a second (Textual), so the
commands import this only when asked for it; `--once` and `--json` do without.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import termios
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import tzinfo
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static

from denyspam import control, screen, sentences
from denyspam.grammar import parse_duration
from denyspam.screen import BANS, HOT, Frame, View

EVERY = 1.0  # seconds between two questions
PATIENCE = 5.0  # seconds for an answer
ROWS = 200  # of each list
GRACE = "1d"

HEAT = ("#2ea043", "#4ba63d", "#7fb135", "#b3b32d", "#d6a728", "#e08a2e", "#ea6a3c", "#f85149")
COOL = ("#1f6f5c", "#24836b", "#2a987b", "#2fac8b", "#3bbf9b", "#52cfac", "#6fdfbe", "#91efd1")
WARM = ("#7a3e12", "#944c14", "#ae5b16", "#c86a18", "#db7c22", "#e8913a", "#f1a757", "#f9be78")
STOP = ("#4a3a8c", "#5a48a3", "#6b57b9", "#7c67ce", "#8e78de", "#a18bea", "#b59ff3", "#cab5fa")
COLORS = {
    "": "#c9d1d9",
    "text": "#c9d1d9",
    "dim": "#848d97",
    "strong": "bold #f0f6fc",
    "title": "bold #f0f6fc",
    "head": "#848d97",
    "label": "#79c0ff",
    "address": "#e6edf3",
    "accent": "bold #ffa657",
    "good": "bold #3fb950",
    "warn": "bold #e3b341",
    "bad": "bold #ff7b72",
    "alarm": "bold #ffffff on #b62324",
    "badge": "bold #0d1117 on #e3b341",
    "brand": "bold #0d1117 on #3fb950",
    "key": "bold #79c0ff",
    "box-rate": "#2f6f5c",
    "box-hot": "#8a5a24",
    "box-bans": "#8a3b4a",
    "box-side": "#3a5580",
    "box-focus": "bold #ffa657",
    "empty": "#2b323b",
    "calm": "#4f8fd6",
    **{f"heat{at}": color for at, color in enumerate(HEAT)},
    **{f"lines{at}": color for at, color in enumerate(COOL)},
    **{f"offences{at}": color for at, color in enumerate(WARM)},
    **{f"refused{at}": color for at, color in enumerate(STOP)},
}
BACKGROUND, CHOSEN = "#0d1117", "#2a3442"
PLAIN = {
    **dict.fromkeys(("strong", "title", "good", "warn", "bad", "key", "accent", "box-focus"), "bold"),
    **dict.fromkeys(("brand", "badge", "alarm"), "bold reverse"),
}
HELP = """\
Each row of "hottest" is an address on its way to a ban: how many of the hits that a policy allows it has
within the policy's time, and when the last of them is forgotten if no other follows. "bans" are those that
hold, the newest first.

  ↑ ↓  j k       another address            PgUp PgDn  ten at once      Home End  the first, the last
  Tab            the other list             mouse      click on an address
  Enter  w       why: the policy, the log lines, the history of the address
  b              ban an address or network (asks how long and why)
  r              release the address (asks first)
  /              show only what has this in its address, or a ban's rule; Esc shows all again
  p  Space       pause, and go on
  ?              this help
  q  Ctrl-C      quit"""


class Inks:
    """Styles by their names."""

    def __init__(self, color: bool) -> None:
        self._color = color
        self._made: dict[str, Style] = {}

    def __getitem__(self, name: str) -> Style:
        if name not in self._made:
            word, _, chosen = name.partition(" ")
            if self._color:
                ground = Style(color=COLORS["text"], bgcolor=CHOSEN if chosen else BACKGROUND)
                self._made[name] = ground + Style.parse(COLORS.get(word, ""))
            else:
                self._made[name] = Style.parse(PLAIN.get(word, "")) + Style(reverse=True if chosen else None)
        return self._made[name]


class Picture(Widget, can_focus=True):
    """The whole screen. The keys are its own, so that a dialog above it has none of them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "app.leave", show=False),
        Binding("down,j", "app.move(1)", show=False),
        Binding("up,k", "app.move(-1)", show=False),
        Binding("pagedown", "app.move(10)", show=False),
        Binding("pageup", "app.move(-10)", show=False),
        Binding("home,g", "app.move(-100000)", show=False),
        Binding("end,G", "app.move(100000)", show=False),
        Binding("tab,shift+tab,left,right", "app.other", show=False),
        Binding("enter,w", "app.why", show=False),
        Binding("b", "app.ban", show=False),
        Binding("r", "app.release", show=False),
        Binding("slash", "app.find", show=False),
        Binding("escape", "app.all", show=False),
        Binding("p,space", "app.pause", show=False),
        Binding("question_mark,h,f1", "app.help", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.frame = Frame([], {})

    def render_line(self, y: int) -> Strip:
        inks = self.top.inks
        if y >= len(self.frame.lines):
            return Strip.blank(self.size.width, inks[""])
        segments = [Segment(text, inks[style]) for text, style in self.frame.lines[y]]
        return Strip(segments, self.size.width)

    @property
    def top(self) -> Top:
        app = self.app
        assert isinstance(app, Top)  # noqa: S101 - for the type checker
        return app

    def show(self) -> None:
        top = self.top
        top.view.now = top.now()
        self.frame = screen.draw(top.found, top.view, self.size.width, self.size.height)
        self.refresh()

    def on_resize(self, _: events.Resize) -> None:
        self.show()

    def on_click(self, event: events.Click) -> None:
        for start, end, name, address in self.frame.rows.get(event.y, ()):
            if start <= event.x < end:
                self.top.choose(name, address)


class Dialog(ModalScreen[Any]):
    """A box above the picture; Esc closes it with None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", show=False)]

    def action_close(self) -> None:
        self.dismiss(None)


class Text(Dialog):
    """Text to scroll in."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,enter,w,question_mark", "close", show=False)]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with Vertical(classes="box wide") as box:
            box.border_title, box.border_subtitle = self._title, "Esc closes"
            with VerticalScroll(can_focus=True):
                yield Static(self._text, markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()


class Question(Dialog):
    """A question with a key for each answer: `keys` maps it to what the dialog returns."""

    def __init__(self, title: str, text: str, keys: dict[str, Any]) -> None:
        super().__init__()
        self._title, self._text, self._keys = title, text, keys

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._title
            yield Static(self._text, markup=False)

    def on_key(self, event: events.Key) -> None:
        if event.key in self._keys:
            event.stop()
            self.dismiss(self._keys[event.key])


class Form(Dialog):
    """Some fields; Enter in any of them returns what stands in all."""

    def __init__(self, title: str, fields: dict[str, str], hint: str) -> None:
        super().__init__()
        self._title, self._fields, self._hint = title, fields, hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._title
            for name, value in self._fields.items():
                yield Static(name, markup=False, classes="name")
                yield Input(value, classes="field")
            yield Static(self._hint, markup=False, classes="hint")

    def on_input_submitted(self) -> None:
        self.dismiss([each.value for each in self.query(Input)])


class Find(Dialog):
    """One line at the bottom; each key is told to `changed`."""

    def __init__(self, value: str, changed: Callable[[str], None]) -> None:
        super().__init__()
        self._value, self._changed = value, changed

    def compose(self) -> ComposeResult:
        yield Input(self._value, placeholder="part of an address or rule; Enter keeps it, Esc shows all", id="find")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._changed(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)


class Top(App[int]):
    """The program. `socket` is the daemon's, `peers` the addresses that are never to be banned from here."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c,ctrl+q", "leave", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True),
    ]
    CSS = """
    Screen { background: #0d1117; layers: base; }
    Picture { width: 100%; height: 100%; background: #0d1117; }
    Dialog { align: center middle; background: #0d1117 60%; }
    .box { width: 80; max-width: 96%; height: auto; max-height: 90%; padding: 1 2; background: #161b22;
           color: #c9d1d9; border: round #ffa657; border-title-color: #f0f6fc; border-title-style: bold;
           border-subtitle-color: #848d97; }
    .wide { width: 92%; }
    .box VerticalScroll { height: auto; max-height: 100%; background: #161b22; scrollbar-size-vertical: 1; }
    .name { color: #848d97; }
    .field { height: 1; border: none; padding: 0 1; margin: 0 0 1 0; background: #0d1117; color: #f0f6fc; }
    .field:focus { border: none; background: #21303f; }
    .hint { color: #848d97; }
    Find { align: left bottom; background: transparent; }
    #find { height: 1; border: none; padding: 0 1; background: #21303f; color: #f0f6fc; }
    Toast { background: #21303f; }
    """

    def __init__(self, socket: str, zone: tzinfo, peers: tuple[str, ...] = ()) -> None:
        color = not isinstance(self, PlainTop)
        super().__init__(ansi_color=not color)
        self._socket, self._peers = socket, peers
        self._stopped = 0.0  # when it was paused
        self._asleep = False  # stopped by its own hand, which puts the screen back itself
        self._refused: deque[float] = deque(maxlen=600)
        self._packets: tuple[float, int] | None = None
        self._wake = asyncio.Event()
        self.inks = Inks(color)
        self.found: dict[str, Any] = {}
        self._picked: set[str] = set()  # lists in which somebody chose an address other than the first
        self.view = View(zone=zone, color=color)
        self.view.refused = self._refused
        self.picture = Picture()

    def compose(self) -> ComposeResult:
        yield self.picture

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.exit, 0)
        loop.add_signal_handler(signal.SIGTSTP, self.action_suspend_process)
        loop.add_signal_handler(signal.SIGCONT, self._continued)
        self.run_worker(self._poll(), exclusive=True)
        self.picture.focus()

    def action_suspend_process(self) -> None:
        self._asleep = True
        with self.suspend():
            os.kill(os.getpid(), signal.SIGSTOP)

    def _continued(self) -> None:
        """After SIGSTOP from elsewhere the terminal may be a shell's by now, so it is taken anew. Textual's own handler
        would leave the reader of keys alone and start a second: each then waits for keys that the other took, and the
        end waits for both."""
        if self._asleep:
            self._asleep = False
        else:
            with self.suspend():
                pass

    def now(self) -> float:
        """The time that the picture is of."""
        return self._stopped or time.time()

    # --- the daemon -----------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            self._wake.clear()
            if not self.view.paused:
                await self._look()
                self.picture.show()
            self._fit()
            wait = EVERY - (asyncio.get_running_loop().time() - began)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.05, wait))

    def _fit(self) -> None:
        """To a size that was missed: the signal of a resize is lost where it comes while Textual still starts."""
        size = Size(*shutil.get_terminal_size())
        if not self.is_headless and size != self.size:
            self.post_message(events.Resize(size, size))

    async def _look(self) -> None:
        request = {"command": "top", "most": ROWS, "match": self.view.match}
        try:
            answer = await control.inquire(self._socket, request, PATIENCE)
        except (control.Unreachable, control.Forbidden) as error:
            self.view.trouble = str(error)
            return
        if "error" in answer:
            self.view.trouble = answer["error"]
            return
        self.view.trouble = ""
        if not self.view.paused:
            self.found = answer["ok"]
            self._count()
            self._keep_chosen()

    def _count(self) -> None:
        """Packets refused a second, from two snapshots: a daemon that was restarted may count anew."""
        packets = self.found["firewall"]["packets"]
        if packets is None:
            self._packets = None
            return
        when = self.found["time"]
        if self._packets is not None and when > self._packets[0]:
            self._refused.append(max(0, packets - self._packets[1]) / (when - self._packets[0]))
        if self._packets is None or when > self._packets[0]:
            self._packets = when, packets

    def _keep_chosen(self) -> None:
        """The address that somebody chose stays chosen while it is there; else the first is, whichever that may be, so
        that the top of a list is what one sees."""
        for name in (HOT, BANS):
            addresses = [row["address"] for row in self.found[name]]
            if name not in self._picked or self.view.selected[name] not in addresses:
                self.view.selected[name] = addresses[0] if addresses else None
                self._picked.discard(name)
        if self.view.selected[self.view.focus] is None and any(self.view.selected.values()):
            self.view.focus = HOT if self.view.selected[HOT] else BANS

    async def _tell(self, request: dict[str, Any], done: Callable[[dict[str, Any]], Iterator[str]]) -> None:
        """Have the daemon do something, and say what came of it."""
        try:
            answer = await control.inquire(self._socket, request)
        except (control.Unreachable, control.Forbidden) as error:
            answer = {"error": str(error)}
        if "error" in answer:
            self._say(answer["error"], bad=True)
            return
        for text in done(answer["ok"]):
            self._say(text.lstrip("!"), bad=text.startswith("!"))
        self._wake.set()

    def _say(self, text: str, bad: bool = False) -> None:
        self.notify(screen.escaped(text), severity="error" if bad else "information", timeout=6, markup=False)

    # --- keys -----------------------------------------------------------------------------------------------------

    def choose(self, name: str, address: str) -> None:
        self.view.focus = name
        self.view.selected[name] = address
        if self.found[name][0]["address"] == address:
            self._picked.discard(name)
        else:
            self._picked.add(name)
        self.picture.show()

    @property
    def chosen(self) -> str | None:
        return self.view.selected[self.view.focus]

    def action_leave(self) -> None:
        self.exit(0)

    def action_move(self, steps: int) -> None:
        addresses = [row["address"] for row in self.found.get(self.view.focus, ())]
        if addresses:
            at = addresses.index(self.chosen) if self.chosen in addresses else 0
            self.choose(self.view.focus, addresses[max(0, min(at + steps, len(addresses) - 1))])

    def action_other(self) -> None:
        self.view.focus = BANS if self.view.focus == HOT else HOT
        self.picture.show()

    def action_pause(self) -> None:
        self.view.paused = not self.view.paused
        self._stopped = time.time() if self.view.paused else 0.0
        self._wake.set()
        self.picture.show()

    def action_help(self) -> None:
        self.push_screen(Text("denyspam top", HELP))

    def action_find(self) -> None:
        def changed(text: str) -> None:
            self.view.match = text.strip()
            self._wake.set()

        def ended(text: str | None) -> None:
            changed(text or "")
            self.picture.show()

        self.push_screen(Find(self.view.match, changed), ended)

    def action_all(self) -> None:
        self.view.match = ""
        self._wake.set()
        self.picture.show()

    def action_why(self) -> None:
        if self.chosen is not None:
            self.run_worker(self._why(self.chosen))

    async def _why(self, address: str) -> None:
        host = address.partition("/")[0]
        try:
            answer = await control.inquire(self._socket, {"command": "why", "address": host}, PATIENCE)
        except (control.Unreachable, control.Forbidden) as error:
            answer = {"error": str(error)}
        if "error" in answer:
            self._say(answer["error"], bad=True)
            return
        lines = sentences.why(answer["ok"], self.view.zone, time.time())
        text = "\n".join(screen.escaped(line) for line in lines)
        self.push_screen(Text(f"why {address}", text))

    def action_ban(self) -> None:
        fields = {"address or network": self.chosen or "", "how long": "1h", "why (kept in the ledger)": ""}

        def ended(values: list[str] | None) -> None:
            if values is None:
                return
            try:
                seconds = parse_duration(values[1])
            except ValueError as error:
                self._say(f"how long: {getattr(error, 'message', error)}", bad=True)
                return
            request = {"command": "ban", "addresses": [values[0].strip()], "seconds": seconds, "note": values[2]}
            self._do({**request, "sessions": list(self._peers)}, _banned)

        self.push_screen(Form("ban", fields, "Enter bans, Esc leaves it"), ended)

    def action_release(self) -> None:
        address = self.chosen
        if address is None:
            return
        text = (
            f"Release {address}?\n\n"
            f"  y   yes; hits count again from now on\n"
            f"  g   yes, and no policy bans it again for {GRACE}\n"
            f"  n   no"
        )

        def ended(grace: float | None) -> None:
            if grace is not None:
                more = {"grace": grace} if grace else {}
                self._do({"command": "release", "addresses": [address], **more}, _released)

        self.push_screen(Question("release", text, {"y": 0.0, "g": parse_duration(GRACE), "n": None}), ended)

    def _do(self, request: dict[str, Any], done: Callable[[dict[str, Any]], Iterator[str]]) -> None:
        work: Awaitable[None] = self._tell(request, done)
        self.run_worker(work)


class PlainTop(Top):
    """The same without colours: the terminal's own, bold and reverse."""

    CSS = (
        Top.CSS
        + """
    Screen, Picture, Dialog, .box, .box VerticalScroll, .field, .field:focus, #find, Find, Toast, .name, .hint {
        background: ansi_default; color: ansi_default; }
    .box { border: round ansi_default; border-title-color: ansi_default; border-subtitle-color: ansi_default; }
    .field:focus { text-style: underline; }
    """
    )


def run(socket: str, zone: tzinfo, peers: tuple[str, ...]) -> int:
    """Until somebody quits; the exit code. The terminal's modes are put back here as well: stopped from outside and
    continued, Textual takes its own for those it found."""
    program = PlainTop if os.environ.get("NO_COLOR") else Top
    app = program(socket, zone, peers)
    before = termios.tcgetattr(0)
    try:
        app.run()
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
    return app.return_code or 0


def _banned(answer: dict[str, Any]) -> Iterator[str]:
    """What came of a ban, in sentences; one that is bad news begins with an exclamation mark."""
    yield from (f"banned {ban['address']}" for ban in answer["banned"])
    yield from (f"!{each['address']} is not banned: {each['reason']}" for each in answer["refused"])
    if answer["fault"]:
        yield f"!the firewall refuses: {answer['fault']}"


def _released(answer: dict[str, Any]) -> Iterator[str]:
    yield from (f"released {address}" for address in answer["released"])
    yield from (f"!{address} was not banned" for address in answer["missing"])
    yield from (f"!{ban['address']} is still banned, and with it what lies in it" for ban in answer["still"])
    yield from (f"no policy bans {each['address']} for {GRACE}" for each in answer["graces"])
    if answer["fault"]:
        yield f"!the firewall refuses: {answer['fault']}"
