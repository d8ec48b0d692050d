#!/usr/bin/env python3
"""Draws docs/takeover.svg from a run of the demo.

    cargo xtask demo --json /tmp/demo.json
    docs/takeover.py /tmp/demo.json "DATE, MACHINE" > docs/takeover.svg

It shows the step with the frozen owner (SIGSTOP). The instants are those of that run: what the client saw, and
what the new owner tells in its `gained` event. The last heartbeat and the end of the lease are reckoned back from the
end of the promises with the times of the profile `lan` (lease 40 ms, takeover 50 ms).
"""

import json
import sys
from html import escape

LEASE, TAKEOVER = 40.0, 50.0  # profile "lan", ms
LEFT, WIDTH = 168, 660  # of the time axis
FROM, TO = -12.0, 62.0  # ms shown

STYLE = """
  .bg { fill: #ffffff } .t { fill: #1f2328 } .s { fill: #59636e }
  .axis { stroke: #d1d9e0 } .own { fill: #2da44e } .new { fill: #0969da } .prom { fill: #bf8700 }
  .none { fill: #cf222e } .ice { fill: #8c959f } .mark { stroke: #cf222e } .hair { stroke: #59636e }
  .box { fill: #f6f8fa; stroke: #d1d9e0 }
  @media (prefers-color-scheme: dark) {
    .bg { fill: #0d1117 } .t { fill: #e6edf3 } .s { fill: #9198a1 }
    .axis { stroke: #3d444d } .own { fill: #3fb950 } .new { fill: #4493f8 } .prom { fill: #d29922 }
    .none { fill: #f85149 } .ice { fill: #656c76 } .mark { stroke: #f85149 } .hair { stroke: #9198a1 }
    .box { fill: #151b23; stroke: #3d444d }
  }
  text { font: 13px system-ui, sans-serif } .b { font-weight: 600 } .h { font-size: 17px; font-weight: 600 }
  .n { font-size: 12px }
"""

out = []


def x(ms):
    return LEFT + (ms - FROM) / (TO - FROM) * WIDTH


def text(at, y, words, kind="t", anchor="start"):
    out.append(f'<text class="{kind}" x="{at:.1f}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>')


def bar(a, b, y, kind, height=20):
    out.append(f'<rect class="{kind}" x="{x(a):.1f}" y="{y}" width="{x(b) - x(a):.1f}" height="{height}" rx="3"/>')


def line(x1, y1, x2, y2, kind, dash=""):
    dash = f' stroke-dasharray="{dash}"' if dash else ""
    out.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1}" x2="{x2:.1f}" y2="{y2}"{dash}/>')


def lane(y, who, what):
    text(16, y + 9, who, "t b")
    text(16, y + 24, what, "s n")


def main(path, caption):
    with open(path, encoding="utf-8") as file:
        step = next(s for s in json.load(file)["steps"] if s["key"] == "b")
    zero = step["seen"]["from_ns"]
    rel = lambda ns: (ns - zero) / 1e6
    p = {name: rel(ns) for name, ns in step["points"].items()}
    detected, claimed, agreed = p["detected_ns"], p["claimed_ns"], p["agreed_ns"]
    address, announced = p["address_ns"], p["announced_ns"]
    gap = step["seen"]["v4"]["gaps"][-1]
    answer = rel(gap["to"])
    beat = detected - TAKEOVER  # the last heartbeat that the voters heard
    lease = beat + LEASE
    old, new = step["from"], step["to"]
    voters = " and ".join(n for n in ("n1", "n2", "n3") if n != old)

    out.append('<rect class="bg" width="860" height="470" rx="6"/>')
    text(16, 28, f"The owner's agent is frozen (SIGSTOP); {new} takes over", "t h")
    text(16, 47, caption, "s n")
    for ms in range(-10, int(TO), 10):
        line(x(ms), 62, x(ms), 282, "axis")
        text(x(ms), 298, f"{ms} ms" if ms == 0 else f"{ms}", "s n", "middle")

    lane(68, f"{old}, agent", "sends heartbeats")
    bar(FROM, 0, 70, "own")
    bar(0, TO, 70, "ice")
    text(x(0) + 8, 84, "frozen: runs no code, cannot give anything up", "bg n b")
    lane(108, f"{old}, kernel", "lease and gate")
    bar(FROM, lease, 110, "own")
    text(x(FROM) + 8, 124, "gate open: the lease holds", "bg n b")
    text(x(lease) + 6, 124, "gate shut", "t n")
    lane(148, f"{voters}, kernel", "the voters' promises")
    bar(FROM, detected, 150, "prom")
    text(x(FROM) + 8, 164, f"promised to {old}: granted to nobody else", "bg n b")
    lane(188, f"{new}", "the next owner")
    bar(agreed, TO, 190, "new")
    text(x(agreed) + 6, 204, "gate open", "bg n b")
    lane(228, "client", "echo every ms")
    bar(FROM, rel(gap["from"]), 230, "own")
    bar(rel(gap["from"]), answer, 230, "none")
    bar(answer, TO, 230, "new")
    text(x(FROM) + 8, 244, f"answered by {old}", "bg n b")
    text((x(rel(gap["from"])) + x(answer)) / 2, 244, f"{answer - rel(gap['from']):.0f} ms", "bg n b", "middle")
    text(x(answer) + 6, 244, f"by {new}", "bg n b")

    line(x(0), 62, x(0), 282, "mark", "4 3")
    text(x(0) + 3, 275, "frozen", "t n")
    line(x(beat), 70, x(beat), 262, "hair", "2 3")
    text(x(beat) + 3, 275, "last heartbeat", "t n", "end")
    text(x(lease), 275, "lease ends", "t n", "end")
    text(x(detected) + 2, 275, "promises end, claim", "t n")

    # The last step, stretched: everything between the end of the promises and the first answer.
    top = 318
    out.append(f'<rect class="box" x="16" y="{top}" width="828" height="138" rx="6"/>')
    text(30, top + 22, f"The takeover itself on {new}, stretched: {answer - detected:.2f} ms", "t b")
    left, wide = 44, 380
    scale = wide / (answer - detected)
    points = [
        (detected, claimed, agreed, "claim to all voters; a majority grants it", "new"),
        (agreed, agreed, address, "lease and gate were set at once; now the address", "own"),
        (address, address, announced, "announcement: ARP and neighbour advertisement", "prom"),
        (announced, announced, answer, "the client's next echo is answered", "ice"),
    ]
    y = top + 38
    for begin, _, end, words, kind in points:
        a, b = left + (begin - detected) * scale, left + (end - detected) * scale
        out.append(f'<rect class="{kind}" x="{a:.1f}" y="{y}" width="{max(b - a, 2):.1f}" height="16" rx="3"/>')
        label = f"{words}: {end - begin:.2f} ms"
        text(b + 8, y + 13, label, "t n")
        y += 24

    print('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 470" width="860" height="470" role="img" '
          'aria-label="Timeline of a takeover: freeze, end of the lease, end of the promises, claim, grant, gate, '
          'address, announcement">')
    print(f"<style>{STYLE}</style>")
    print("\n".join(out))
    print("</svg>")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
