#!/usr/bin/env python3
"""Draws docs/top.svg: what `fairlane top` shows of the load of crates/cli/examples/load.rs.

Run it in the directory of the project, with tmux installed: python3 docs/top.py [seconds of load]. It
runs the load on a server of its own, and top in a terminal of tmux, takes the screen as it is after that
time, and writes each piece of text with its colours at its place.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from html import escape

COLUMNS, ROWS = 100, 28
WIDTH, HEIGHT, MARGIN, SIZE = 8.43, 17, 14, 14
FONT = "ui-monospace,'SF Mono',Menlo,'DejaVu Sans Mono','Cascadia Mono',Consolas,monospace"
TEXT, GROUND = "#d8dee9", "#12161d"
COLOURS = ["#3b4252", "#f0716b", "#8bd17c", "#ebcb72", "#6ea8fe", "#d69bf0", "#5fd0d8", "#d8dee9"]
BRAILLE = 0x2800
DOTS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]  # Column and row of each bit.
WORDS = re.compile("[^ ─│┃└▬\u2800-\u28ff]+(?: [^ ─│┃└▬\u2800-\u28ff]+)*")
BRIGHT = ["#7b8698", "#ff8f88", "#a9e69b", "#ffe08a", "#93c0ff", "#e7b8ff", "#85e6ec", "#ffffff"]


def screen(seconds):
    """The lines of the screen, with escape sequences, after the load has run for so long."""
    subprocess.run(["cargo", "build", "--release", "-p", "fairlane-cli", "--bins", "--examples"], check=True)
    os.environ["LC_ALL"] = "C.UTF-8"
    with tempfile.TemporaryDirectory() as data:
        tmux = ["tmux", "-u", "-S", f"{data}/tmux.sock", "-f", "/dev/null"]
        load = subprocess.Popen(["target/release/examples/load", data], stdout=subprocess.PIPE, text=True)
        try:
            command = "target/release/" + load.stdout.readline().strip()
            size = ["-x", str(COLUMNS), "-y", str(ROWS)]
            command = ["env", "-u", "NO_COLOR", *shlex.split(command)]
            subprocess.run([*tmux, "new-session", "-d", *size, shlex.join(command)], check=True)
            time.sleep(seconds)
            subprocess.run([*tmux, "send-keys", "Tab"], check=True)
            time.sleep(1)
            shown = [*tmux, "capture-pane", "-e", "-p", "-N"]
            shown = subprocess.run(shown, check=True, capture_output=True).stdout
            return shown.decode("utf-8").splitlines()
        finally:
            subprocess.run([*tmux, "kill-server"])
            load.terminate()
            load.wait()


def pieces(line, style):
    """The texts of a line, each with the column where it begins and a copy of its style."""
    column = 0
    for text, codes in re.findall(r"([^\x1b]+)|\x1b\[([\d;]*)m", re.sub(r"\x1b\([AB0]|[\x0e\x0f]", "", line)):
        if text:
            yield column, text, dict(style)
            column += len(text)
            continue
        for code in re.findall(r"38;5;\d+|\d+|^$", codes):
            if code.startswith("38;5;"):
                style["colour"] = (COLOURS + BRIGHT)[int(code[5:])]
                continue
            code = int(code or 0)
            if code == 0:
                style.clear()
            elif code in (1, 7):
                style[code] = True
            elif code in (22, 27):
                style.pop(1 if code == 22 else 7, None)
            elif code == 39:
                style.pop("colour", None)


def shapes(text, x, top):
    """The parts of lines, bars and dots as rectangles: fonts leave gaps between them."""
    middle, centre = top + HEIGHT / 2, x + WIDTH / 2
    for n, char in enumerate(text):
        at, mid = x + n * WIDTH, centre + n * WIDTH
        if char in "─└":
            left = at if char == "─" else mid
            yield left, middle - 0.5, at + WIDTH - left, 1
        if char in "│┃└":
            thick = 2.5 if char == "┃" else 1
            yield mid - thick / 2, top, thick, HEIGHT / 2 if char == "└" else HEIGHT
        if char == "▬":
            yield at, middle - 3.5, WIDTH, 7
        if BRAILLE <= ord(char) < BRAILLE + 256:
            for bit, (column, row) in enumerate(DOTS):
                if ord(char) - BRAILLE >> bit & 1:
                    yield at + (column + 0.5) * WIDTH / 2 - 0.9, top + (row + 0.5) * HEIGHT / 4 - 0.9, 1.8, 1.8


def drawn(lines):
    """The picture. Each word has its length, so that columns stay columns in any font."""
    boxes, texts, style = [], [], {}
    for row, line in enumerate(lines):
        top = MARGIN + row * HEIGHT
        for column, text, now in pieces(line, style):
            fill = now.get("colour", TEXT)
            if now.get(7):
                x, width = MARGIN + column * WIDTH, len(text) * WIDTH
                boxes.append(f'<rect x="{x:.2f}" y="{top}" width="{width:.2f}" height="{HEIGHT}" fill="{fill}"/>')
                fill = GROUND
            path = "".join(f"M{x:.2f} {y:.2f}h{w:.2f}v{h:.2f}h{-w:.2f}z" for x, y, w, h in
                           shapes(text, MARGIN + column * WIDTH, top))
            if path:
                boxes.append(f'<path d="{path}" fill="{fill}"/>')
            weight = ' font-weight="bold"' if now.get(1) else ""
            for word in re.finditer(WORDS, text):
                x = MARGIN + (column + word.start()) * WIDTH
                length = len(word[0]) * WIDTH
                place = f'x="{x:.2f}" y="{top + HEIGHT - 4}" textLength="{length:.2f}" lengthAdjust="spacingAndGlyphs"'
                texts.append(f'<tspan {place} fill="{fill}"{weight}>{escape(word[0])}</tspan>')
    width, height = 2 * MARGIN + COLUMNS * WIDTH, 2 * MARGIN + ROWS * HEIGHT
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" role="img" aria-label="fairlane top: queues, a chart, and facets with their shares">',
        f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>',
        *boxes,
        f'<text font-family="{FONT}" font-size="{SIZE}" xml:space="preserve">',
        *texts,
        "</text>",
        "</svg>\n",
    ])


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 200
    with open("docs/top.svg", "w", encoding="utf-8") as picture:
        picture.write(drawn(screen(seconds)))
