"""The style of the report: one column on a phone, light or dark as the device says."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1c2430; --quiet: #5b6675; --rule: #dfe3e8;
  --good: #1a7f4b; --bad: #b3261e; --busy: #8a5a00; --bar: #b9d3f5; --link: #1a5fb4;
  --c0: #1f6fd1; --c1: #c2410c; --c2: #15803d; --c3: #a21caf; --c4: #0e7490; --c5: #a16207;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1b2129; --text: #e6eaf0; --quiet: #9aa6b5; --rule: #2d3642;
    --good: #57d694; --bad: #ff8a80; --busy: #f0c36b; --bar: #274a75; --link: #8ab8ff;
    --c0: #6ea8fe; --c1: #ff9a6b; --c2: #63d68c; --c3: #e39bf0; --c4: #5fd0e6; --c5: #e8c35c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 1rem; background: var(--page); color: var(--text);
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 70rem; margin: 0 auto; }
h1 { font-size: 1.5rem; margin: .2rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
p { margin: .3rem 0; }
a { color: var(--link); }
.quiet { color: var(--quiet); font-size: .9rem; overflow-wrap: anywhere; }
section {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 1rem; margin: 1rem 0;
}
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); }
.card { border: 1px solid var(--rule); border-radius: 8px; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.plots {
  display: grid;
  gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
}
.plot { margin: 0; }
.plot figcaption { font-weight: 600; margin-bottom: .2rem; }
.plot svg { width: 100%; height: auto; display: block; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem .9rem; font-size: .85rem; }
.legend .swatch {
  display: inline-block; width: 20px;
  height: 4px; margin-right: .35rem; vertical-align: middle;
}
.key { overflow-wrap: anywhere; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.dashed { stroke-dasharray: 5 4; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); }
.grid { stroke: var(--rule); stroke-width: 1; }
.tick { fill: var(--quiet); font-size: 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td {
  text-align: left; padding: .35rem .7rem .35rem 0;
  border-top: 1px solid var(--rule); vertical-align: top;
}
th { border-top: 0; color: var(--quiet); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.wide { min-width: 13rem; overflow-wrap: anywhere; }
.bar {
  display: block; height: .55rem; border-radius: 3px;
  background: var(--bar); margin-top: .35rem; min-width: 1px;
}
.good { color: var(--good); } .bad { color: var(--bad); } .busy { color: var(--busy); }
.reasons { margin: .3rem 0 .3rem 1.1rem; padding: 0; }
.images {
  display: grid;
  gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr));
}
.images figure { margin: 0; }
.images img { width: 100%; height: auto; border-radius: 6px; display: block; }
.images figcaption { font-size: .85rem; color: var(--quiet); overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .85rem; margin: .6rem 0 0; }
summary { cursor: pointer; font-weight: 600; }
"""
